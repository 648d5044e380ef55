//! Vectors of the standards, and what they do not show: pieces, tags, forgotten keys.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn iv(text: &str) -> [u8; BLOCK_BYTES] {
    let mut iv = [0; BLOCK_BYTES];
    let bytes = hex(text);
    iv[..bytes.len()].copy_from_slice(&bytes);
    iv
}

fn started(algorithm: KeyAlgorithm, key: &[u8], iv: &[u8; 16], direction: Direction) -> Cipher {
    let mut cipher = Cipher::new(algorithm).unwrap();
    cipher.start(key, iv, direction).unwrap();
    cipher
}

const CBC_PLAIN: &str = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51
    30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710";

/// SP 800-38A, F.2.1 and F.2.5.
#[test]
fn cbc_is_that_of_the_standard() {
    let vectors = [
        (
            KeyAlgorithm::AesCbc128,
            "2b7e151628aed2a6abf7158809cf4f3c",
            "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2
             73bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7",
        ),
        (
            KeyAlgorithm::AesCbc256,
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d
             39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
        ),
    ];
    for (algorithm, key, expected) in vectors {
        let (key, iv) = (hex(key), iv("000102030405060708090a0b0c0d0e0f"));
        // In two pieces: the chain goes on from one to the other.
        let mut data = hex(CBC_PLAIN);
        let mut cipher = started(algorithm, &key, &iv, Direction::Encrypt);
        cipher.apply(&mut data[..16]).unwrap();
        cipher.apply(&mut data[16..]).unwrap();
        assert_eq!(data, hex(expected), "{algorithm:?}");
        let mut cipher = started(algorithm, &key, &iv, Direction::Decrypt);
        cipher.apply(&mut data[..48]).unwrap();
        cipher.apply(&mut data[48..]).unwrap();
        assert_eq!(data, hex(CBC_PLAIN), "{algorithm:?}");
        assert_eq!(cipher.apply(&mut [0; 15]), Err(CipherError));
    }
}

const XTS_KEY: &str = "2718281828459045235360287471352662497757247093699959574966967627
    3141592653589793238462643383279502884197169399375105820974944592";

const XTS_CIPHER: &str = "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44
    680a86ac35adfc3345befecb4bb188fd5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0
    c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca2a3e7a7d7df7b10355165c8b9a6d0a7d
    e8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f
    93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec583e9645e07b8d9670655ba5bbcfecc6
    dc3966380ad8fecb17b6ba02469a020a84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1
    505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae9be69a2ffeceb1bec9de244fbe15992b
    11b77c040f12bd8f6a975a44a0f90c29a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac
    6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493
    c27b3429eaedb4ed5376441a77ed43851ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa
    773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151";

/// IEEE 1619-2007, annex B, vector 10.
#[test]
fn xts_is_that_of_the_standard() {
    let plain: Vec<u8> = (0..512).map(|i| i as u8).collect();
    let mut data = plain.clone();
    let key = hex(XTS_KEY);
    let mut cipher = started(KeyAlgorithm::AesXts256, &key, &iv("ff"), Direction::Encrypt);
    cipher.apply(&mut data).unwrap();
    assert_eq!(data, hex(XTS_CIPHER));
    // Another unit before: the tweak is set anew.
    let mut cipher = started(KeyAlgorithm::AesXts256, &key, &iv("fe"), Direction::Decrypt);
    cipher.apply(&mut [0; 512]).unwrap();
    cipher.next_unit(&iv("ff")).unwrap();
    cipher.apply(&mut data).unwrap();
    assert_eq!(data, plain);
}

#[test]
fn xts_steals_ciphertext_for_units_that_are_no_multiple_of_a_block() {
    let key = hex(XTS_KEY);
    for len in 16..80 {
        let plain: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
        let mut data = plain.clone();
        let algorithm = KeyAlgorithm::AesXts256;
        started(algorithm, &key, &iv("9a78"), Direction::Encrypt)
            .apply(&mut data)
            .unwrap();
        assert_ne!(data, plain);
        started(algorithm, &key, &iv("9a78"), Direction::Decrypt)
            .apply(&mut data)
            .unwrap();
        assert_eq!(data, plain, "{len}");
    }
    let mut cipher = started(KeyAlgorithm::AesXts256, &key, &iv(""), Direction::Encrypt);
    assert_eq!(cipher.apply(&mut [0; 15]), Err(CipherError));
}

/// XTS as IEEE 1619 writes it down, block by block, over AES alone: with an initialisation vector of zeros, CBC of one
/// block is that.
fn naive_xts(key: &[u8], tweak: &[u8; 16], data: &mut [u8]) {
    let aes = |key: &[u8], block: [u8; 16]| {
        let mut block = block;
        started(KeyAlgorithm::AesCbc256, key, &[0; 16], Direction::Encrypt)
            .apply(&mut block)
            .unwrap();
        block
    };
    let (data_key, tweak_key) = key.split_at(32);
    let mut mask = u128::from_le_bytes(aes(tweak_key, *tweak));
    let mut masked = |block: &[u8]| {
        let block = u128::from_le_bytes(block.try_into().unwrap()) ^ mask;
        let made = u128::from_le_bytes(aes(data_key, block.to_le_bytes())) ^ mask;
        mask = mask << 1 ^ if mask >> 127 == 1 { 0x87 } else { 0 };
        made.to_le_bytes()
    };
    let whole = data.len() / 16 * 16;
    for at in (0..whole).step_by(16) {
        let made = masked(&data[at..at + 16]);
        data[at..at + 16].copy_from_slice(&made);
    }
    if whole < data.len() {
        // What is left takes the beginning of the block before, which gets its rest.
        let (stolen, rest) = data[whole - 16..].split_at_mut(16);
        let mut last: [u8; 16] = (&*stolen).try_into().unwrap();
        last[..rest.len()].swap_with_slice(rest);
        stolen.copy_from_slice(&masked(&last));
    }
}

#[test]
fn xts_is_that_of_naive_code_whatever_is_stolen() {
    let key = hex(XTS_KEY);
    for len in (16..100).chain([512, 519, 4096 + 31]) {
        let mut data: Vec<u8> = (0..len).map(|i| (i * 7) as u8 ^ 0x33).collect();
        let mut expected = data.clone();
        naive_xts(&key, &iv("9a7856"), &mut expected);
        started(
            KeyAlgorithm::AesXts256,
            &key,
            &iv("9a7856"),
            Direction::Encrypt,
        )
        .apply(&mut data)
        .unwrap();
        assert!(data == expected, "{len} bytes");
    }
}

const GCM_PLAIN: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39";
const GCM_AAD: &str = "feedfacedeadbeeffeedfacedeadbeefabaddad2";

/// Test cases 1 to 3 and 13 to 15 of the specification that SP 800-38D refers to: no additional data.
#[test]
fn gcm_without_additional_data_is_that_of_the_standard() {
    const KEY: &str = "feffe9928665731c6d6a8f9467308308";
    let text = format!("{GCM_PLAIN}1aafd255");
    let zero = "00".repeat(16);
    let (zeros, keys) = (zero.repeat(2), KEY.repeat(2));
    let (zero_iv, nonce) = ("00".repeat(12), "cafebabefacedbaddecaf888");
    let zero_iv = zero_iv.as_str();
    for (key, nonce, plain, expected, tag) in [
        (
            &zero[..],
            zero_iv,
            "",
            "",
            "58e2fccefa7e3061367f1d57a4e7455a",
        ),
        (
            &zero,
            zero_iv,
            &zero,
            "0388dace60b6a392f328c2b971b2fe78",
            "ab6e47d42cec13bdf53a67b21257bddf",
        ),
        (
            KEY,
            nonce,
            &text,
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
             21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985",
            "4d5c2af327cd64a62cf35abd2ba6fab4",
        ),
        (&zeros, zero_iv, "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        (
            &zeros,
            zero_iv,
            &zero,
            "cea7403d4d606b6e074ec5d3baf39d18",
            "d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (
            &keys,
            nonce,
            &text,
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
            "b094dac5d93471bdec1a502270e3cc6c",
        ),
    ] {
        let algorithm = if key.len() == 32 {
            KeyAlgorithm::AesGcm128
        } else {
            KeyAlgorithm::AesGcm256
        };
        let mut data = hex(plain);
        let mut cipher = started(algorithm, &hex(key), &iv(nonce), Direction::Encrypt);
        cipher.apply(&mut data).unwrap();
        assert_eq!(data, hex(expected), "{algorithm:?} of {} bytes", data.len());
        assert_eq!(cipher.seal().unwrap().to_vec(), hex(tag));
    }
}

/// Test cases 4 and 16 of the specification that SP 800-38D refers to.
#[test]
fn gcm_is_that_of_the_standard() {
    let vectors = [
        (
            KeyAlgorithm::AesGcm128,
            "feffe9928665731c6d6a8f9467308308",
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
             21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
            "5bc94fbc3221a5db94fae95ae7121a47",
        ),
        (
            KeyAlgorithm::AesGcm256,
            "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ];
    for (algorithm, key, expected, tag) in vectors {
        let (key, nonce) = (hex(key), iv("cafebabefacedbaddecaf888"));
        for cut in [0, 1, 16, 37, 60] {
            let mut data = hex(GCM_PLAIN);
            let mut cipher = started(algorithm, &key, &nonce, Direction::Encrypt);
            cipher.authenticate(&hex(GCM_AAD)).unwrap();
            cipher.apply(&mut data[..cut]).unwrap();
            cipher.apply(&mut data[cut..]).unwrap();
            assert_eq!(data, hex(expected), "{algorithm:?} cut at {cut}");
            assert_eq!(cipher.seal().unwrap().to_vec(), hex(tag));
        }
        let tag: [u8; 16] = hex(tag).try_into().unwrap();
        for bit in 0..=128 {
            let mut data = hex(expected);
            let mut wrong = tag;
            if bit < 128 {
                wrong[bit / 8] ^= 1 << (bit % 8);
            }
            let mut cipher = started(algorithm, &key, &nonce, Direction::Decrypt);
            cipher.authenticate(&hex(GCM_AAD)).unwrap();
            cipher.apply(&mut data).unwrap();
            assert_eq!(cipher.opens(&wrong), bit == 128, "bit {bit}");
            assert_eq!(data, hex(GCM_PLAIN));
        }
    }
}

#[test]
fn from_one_place_to_another_is_as_in_place() {
    // More than one call of the library's, and no whole number of blocks where the mode takes that.
    let gcm = [PIECE_MAX + 77, 16, 1, 0];
    let lengths = |algorithm: KeyAlgorithm| match algorithm {
        KeyAlgorithm::AesXts256 => [4096, 512, 33, 16],
        KeyAlgorithm::AesCbc128 | KeyAlgorithm::AesCbc256 => [PIECE_MAX + 64, 16, 32, 0],
        _ => gcm,
    };
    for &algorithm in KeyAlgorithm::ALL {
        let key: Vec<u8> = (1..=algorithm.key_bytes() as u8).collect();
        for direction in [Direction::Encrypt, Direction::Decrypt] {
            for len in lengths(algorithm) {
                let from: Vec<u8> = (0..len).map(|i| (i * 7 + i / 300) as u8).collect();
                let (mut to, mut in_place) = (vec![0; len], from.clone());
                let new = || started(algorithm, &key, &[9; 16], direction);
                new().apply(&mut in_place).unwrap();
                new().apply_to(&from, &mut to).unwrap();
                assert_eq!(to, in_place, "{algorithm:?} {direction:?} {len}");
            }
            let mut cipher = started(algorithm, &key, &[9; 16], direction);
            let two_lengths = cipher.apply_to(&[0; 32], &mut [0; 48]);
            assert_eq!(two_lengths, Err(CipherError));
        }
    }
}

#[test]
fn what_was_not_started_or_was_forgotten_does_nothing() {
    for &algorithm in KeyAlgorithm::ALL {
        let mut cipher = Cipher::new(algorithm).unwrap();
        assert_eq!(cipher.apply(&mut [0; 16]), Err(CipherError));
        assert_eq!(cipher.apply_to(&[0; 16], &mut [0; 16]), Err(CipherError));
        let key: Vec<u8> = (1..=algorithm.key_bytes() as u8).collect();
        let iv = [9; BLOCK_BYTES];
        assert_eq!(
            cipher.start(&key[1..], &iv, Direction::Encrypt),
            Err(CipherError)
        );
        cipher.start(&key, &iv, Direction::Encrypt).unwrap();
        let mut first = [3; 32];
        cipher.apply(&mut first).unwrap();
        cipher.forget();
        assert_eq!(cipher.apply(&mut [0; 16]), Err(CipherError));
        assert_eq!(cipher.next_unit(&iv), Err(CipherError));
        // What took the key's place is another key.
        cipher.keyed = true;
        cipher.init(ptr::null(), &iv).unwrap();
        let mut second = [3; 32];
        cipher.apply(&mut second).unwrap();
        assert_ne!(first, second, "{algorithm:?}");
    }
}

/// What a piece becomes under the key of `started`.
fn applied(cipher: &mut Cipher, started: Result<(), CipherError>) -> Vec<u8> {
    started.unwrap();
    let mut data = vec![0x3c; 64];
    cipher.apply(&mut data).unwrap();
    data
}

#[test]
fn a_key_is_expanded_anew_only_where_it_is_another_one() {
    let unasked = || -> Result<Vec<u8>, CipherError> { panic!("the key is there") };
    for &algorithm in KeyAlgorithm::ALL {
        let keys = [1, 101].map(|first| (first..).take(algorithm.key_bytes()).collect::<Vec<u8>>());
        let [one, other] = [7, 8].map(|id| KeyName { id, object: None });
        let derived = KeyName {
            object: Some([0; 12]),
            ..one
        };
        let ivs = [[1; BLOCK_BYTES], [2; BLOCK_BYTES]];
        let fresh = |key: &[u8], iv, direction| {
            let mut cipher = Cipher::new(algorithm).unwrap();
            let started = cipher.start(key, iv, direction);
            applied(&mut cipher, started)
        };
        for (there, back) in [
            (Direction::Encrypt, Direction::Decrypt),
            (Direction::Decrypt, Direction::Encrypt),
        ] {
            let mut cipher = Cipher::new(algorithm).unwrap();
            let asked = || Ok(keys[0].clone());
            let started = cipher.start_named(one, asked, &ivs[0], there);
            assert_eq!(
                applied(&mut cipher, started),
                fresh(&keys[0], &ivs[0], there)
            );
            if algorithm.is_aead() {
                // A whole message lies between, and its tag.
                cipher.seal().ok();
            }
            let started = cipher.start_named(one, unasked, &ivs[1], there);
            assert_eq!(
                applied(&mut cipher, started),
                fresh(&keys[0], &ivs[1], there),
                "{algorithm:?} {there:?}"
            );
            // One of another name, or for the other direction, or after it was forgotten, or one without a name.
            for (name, direction) in [(other, there), (other, back), (one, back), (derived, back)] {
                let asked = || Ok(keys[1].clone());
                let started = cipher.start_named(name, asked, &ivs[0], direction);
                assert_eq!(
                    applied(&mut cipher, started),
                    fresh(&keys[1], &ivs[0], direction),
                    "{algorithm:?} {name:?} {direction:?}"
                );
            }
            cipher.start(&keys[0], &ivs[0], back).unwrap();
            let failing = || Err::<Vec<u8>, _>(CipherError);
            let started = cipher.start_named(derived, failing, &ivs[0], back);
            assert_eq!(started, Err(CipherError));
            cipher.start_named(derived, asked, &ivs[0], back).unwrap();
            cipher.forget();
            let started = cipher.start_named(derived, failing, &ivs[0], back);
            assert_eq!(started, Err(CipherError));
        }
    }
}
