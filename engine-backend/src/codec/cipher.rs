//! [`Cipher`]: one AES mode of AWS-LC with its state allocated beforehand.
//!
//! With `channel` the only place that calls AWS-LC. A context is bound to its algorithm when it is made,
//! which is when AWS-LC allocates; each use after that only expands a key into it and
//! works on the caller's slices. [`Cipher::forget`] overwrites the key.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use aws_lc_sys as lc;
use byway_protocols::codec::{KEY_BYTES_MAX, KeyAlgorithm, TAG_BYTES};

/// A block of AES, in bytes.
pub const BLOCK_BYTES: usize = 16;

/// Longest piece that one call takes: lengths are C integers.
const PIECE_MAX: usize = 1 << 20;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Plaintext in, ciphertext out.
    Encrypt,
    /// Ciphertext in, plaintext out.
    Decrypt,
}

/// AWS-LC refused a call: a length or a key that the mode does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cipher refused")]
pub struct CipherError;

/// Which key a cipher was started with: what tells a loaded key from all others, and for a derived one what it was
/// derived for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyName {
    /// Number of the loaded key.
    pub id: u64,
    /// The object of a sealed message's header.
    pub object: Option<[u8; 12]>,
}

/// A mode of AES with room for one key.
#[derive(Debug)]
pub struct Cipher {
    /// Made by `EVP_CIPHER_CTX_new` and owned alone.
    context: NonNull<lc::EVP_CIPHER_CTX>,
    algorithm: KeyAlgorithm,
    direction: Direction,
    keyed: bool,
    /// The key that it is expanded from, if it has a name.
    name: Option<KeyName>,
}

// SAFETY: the context is owned by this value alone and has no tie to a thread.
unsafe impl Send for Cipher {}

impl Cipher {
    /// Room for a key of this algorithm. Allocates.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(algorithm: KeyAlgorithm) -> Result<Self, CipherError> {
        // SAFETY: takes no argument; the tables that it returns are static.
        let table = unsafe {
            match algorithm {
                KeyAlgorithm::AesXts256 => lc::EVP_aes_256_xts(),
                KeyAlgorithm::AesCbc128 => lc::EVP_aes_128_cbc(),
                KeyAlgorithm::AesCbc256 => lc::EVP_aes_256_cbc(),
                KeyAlgorithm::AesGcm128 => lc::EVP_aes_128_gcm(),
                KeyAlgorithm::AesGcm256 | KeyAlgorithm::Channel256 => lc::EVP_aes_256_gcm(),
            }
        };
        // SAFETY: takes no argument.
        let context = NonNull::new(unsafe { lc::EVP_CIPHER_CTX_new() }).ok_or(CipherError)?;
        let mut cipher = Self {
            context,
            algorithm,
            direction: Direction::Encrypt,
            keyed: false,
            name: None,
        };
        // SAFETY: the context is good, the table static, and neither key nor IV is read.
        checked(unsafe {
            lc::EVP_CipherInit_ex(
                cipher.raw(),
                table,
                ptr::null_mut(),
                ptr::null(),
                ptr::null(),
                1,
            )
        })?;
        Ok(cipher)
    }

    /// What keys it takes.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Starts with a key, of the algorithm's length, and an initialisation vector: 16
    /// bytes, of which GCM uses 12.
    ///
    /// # Errors
    /// A key of another length, or one that the mode refuses.
    pub fn start(
        &mut self,
        key: &[u8],
        iv: &[u8; BLOCK_BYTES],
        direction: Direction,
    ) -> Result<(), CipherError> {
        if key.len() != self.algorithm.key_bytes() {
            return Err(CipherError);
        }
        self.keyed = true;
        self.name = None;
        self.direction = direction;
        self.init(key.as_ptr(), iv)?;
        // SAFETY: the context is good. Sizes are checked by who calls, so padding, which
        // would hold the last block back, is off.
        checked(unsafe { lc::EVP_CIPHER_CTX_set_padding(self.raw(), 0) })
    }

    /// The same with a key of this name, which is asked for and expanded only where the cipher was not started with it before,
    /// in the same direction: that takes as long as to encrypt 2 KiB.
    ///
    /// # Errors
    /// As [`Self::start`], and what `key` says.
    pub fn start_named<K: AsRef<[u8]>>(
        &mut self,
        name: KeyName,
        key: impl FnOnce() -> Result<K, CipherError>,
        iv: &[u8; BLOCK_BYTES],
        direction: Direction,
    ) -> Result<(), CipherError> {
        if self.name == Some(name) && self.direction == direction {
            return self.init(ptr::null(), iv);
        }
        self.start(key()?.as_ref(), iv, direction)?;
        self.name = Some(name);
        Ok(())
    }

    /// The next data unit of XTS: the same key and direction, another tweak.
    ///
    /// # Errors
    /// None, once it was started.
    pub fn next_unit(&mut self, iv: &[u8; BLOCK_BYTES]) -> Result<(), CipherError> {
        if !self.keyed {
            return Err(CipherError);
        }
        self.init(ptr::null(), iv)
    }

    /// Encrypts or decrypts in place: a data unit of XTS (16 bytes or more), whole blocks
    /// of CBC, any number of bytes of GCM.
    ///
    /// # Errors
    /// A length that the mode does not take.
    pub fn apply(&mut self, data: &mut [u8]) -> Result<(), CipherError> {
        self.check(data.len())?;
        for piece in data.chunks_mut(PIECE_MAX) {
            let to = piece.as_mut_ptr();
            // SAFETY: the context has a key. A piece is read and written in place, which each of these modes may be.
            unsafe { self.update(to, to, piece.len()) }?;
        }
        Ok(())
    }

    /// The same from one place to another of the same length.
    ///
    /// # Errors
    /// As [`Self::apply`], and two lengths.
    pub fn apply_to(&mut self, from: &[u8], to: &mut [u8]) -> Result<(), CipherError> {
        self.check(from.len())?;
        if from.len() != to.len() {
            return Err(CipherError);
        }
        for (from, to) in from.chunks(PIECE_MAX).zip(to.chunks_mut(PIECE_MAX)) {
            // SAFETY: the context has a key. The pieces are as long as each other and, one of them being borrowed for
            // writing, share no byte.
            unsafe { self.update(from.as_ptr(), to.as_mut_ptr(), from.len()) }?;
        }
        Ok(())
    }

    /// Whether it has a key, and its mode takes so many bytes.
    fn check(&self, len: usize) -> Result<(), CipherError> {
        let fits = match self.algorithm {
            KeyAlgorithm::AesXts256 => (BLOCK_BYTES..=PIECE_MAX).contains(&len),
            KeyAlgorithm::AesCbc128 | KeyAlgorithm::AesCbc256 => len.is_multiple_of(BLOCK_BYTES),
            KeyAlgorithm::AesGcm128 | KeyAlgorithm::AesGcm256 | KeyAlgorithm::Channel256 => true,
        };
        if !fits || !self.keyed {
            return Err(CipherError);
        }
        Ok(())
    }

    /// Encrypts or decrypts at most [`PIECE_MAX`] bytes.
    ///
    /// # Safety
    /// There is a key, `from` is good for reading and `to` for writing `len` bytes, and the two are the same or share none.
    unsafe fn update(
        &mut self,
        from: *const u8,
        to: *mut u8,
        len: usize,
    ) -> Result<(), CipherError> {
        let mut written: c_int = 0;
        // SAFETY: the context is good. It reads and writes these bytes alone: these modes hold no byte back (blocks are
        // whole, padding is off), so no more comes out than went in.
        checked(unsafe { lc::EVP_CipherUpdate(self.raw(), to, &mut written, from, len as c_int) })?;
        if written as usize != len {
            return Err(CipherError);
        }
        Ok(())
    }

    /// Additional data of GCM; comes before the message.
    ///
    /// # Errors
    /// With another mode.
    pub fn authenticate(&mut self, data: &[u8]) -> Result<(), CipherError> {
        if !self.algorithm.is_aead() || !self.keyed {
            return Err(CipherError);
        }
        for piece in data.chunks(PIECE_MAX) {
            let mut read: c_int = 0;
            // SAFETY: the context is good and has a key; without an output it only reads.
            checked(unsafe {
                lc::EVP_CipherUpdate(
                    self.raw(),
                    ptr::null_mut(),
                    &mut read,
                    piece.as_ptr(),
                    piece.len() as c_int,
                )
            })?;
        }
        Ok(())
    }

    /// Ends a message of GCM that was encrypted, with its tag.
    ///
    /// # Errors
    /// With another mode.
    pub fn seal(&mut self) -> Result<[u8; TAG_BYTES as usize], CipherError> {
        let mut tag = [0; TAG_BYTES as usize];
        self.finish()?;
        self.control(lc::EVP_CTRL_AEAD_GET_TAG, &mut tag)?;
        Ok(tag)
    }

    /// Ends a message of GCM that was decrypted: whether its tag is this.
    #[must_use]
    pub fn opens(&mut self, tag: &[u8; TAG_BYTES as usize]) -> bool {
        let mut tag = *tag;
        let set = self.control(lc::EVP_CTRL_AEAD_SET_TAG, &mut tag);
        set.is_ok() && self.finish().is_ok()
    }

    /// Whether a key is in it.
    #[cfg(test)]
    pub(crate) fn has_key(&self) -> bool {
        self.keyed
    }

    /// Overwrites the key, if there is one.
    pub fn forget(&mut self) {
        if self.keyed {
            self.keyed = false;
            self.name = None;
            // Not all zeros: the halves of a key of XTS must differ.
            let mut key = [0; KEY_BYTES_MAX];
            key[0] = 1;
            // A schedule of another key takes the place of the one that was there. It fails
            // for no such key.
            self.direction = Direction::Encrypt;
            let _ = self.init(key.as_ptr(), &[0; BLOCK_BYTES]);
        }
    }

    fn finish(&mut self) -> Result<(), CipherError> {
        if !self.algorithm.is_aead() || !self.keyed {
            return Err(CipherError);
        }
        let mut block = [0; BLOCK_BYTES];
        let mut written: c_int = 0;
        // SAFETY: the context is good and has a key; at most a block is written.
        checked(unsafe { lc::EVP_CipherFinal_ex(self.raw(), block.as_mut_ptr(), &mut written) })
    }

    fn control(
        &mut self,
        command: c_int,
        tag: &mut [u8; TAG_BYTES as usize],
    ) -> Result<(), CipherError> {
        if !self.algorithm.is_aead() || !self.keyed {
            return Err(CipherError);
        }
        // SAFETY: the context is good; both commands read or write as many bytes as said.
        checked(unsafe {
            lc::EVP_CIPHER_CTX_ctrl(
                self.raw(),
                command,
                TAG_BYTES as c_int,
                tag.as_mut_ptr().cast(),
            )
        })
    }

    /// `key` is null, or has as many bytes as the algorithm's keys.
    fn init(&mut self, key: *const u8, iv: &[u8; BLOCK_BYTES]) -> Result<(), CipherError> {
        let encrypt = c_int::from(self.direction == Direction::Encrypt);
        // SAFETY: the context is good and keeps its algorithm, for which the caller's key
        // is long enough; no mode's IV is longer than a block.
        checked(unsafe {
            lc::EVP_CipherInit_ex(
                self.raw(),
                ptr::null(),
                ptr::null_mut(),
                key,
                iv.as_ptr(),
                encrypt,
            )
        })
    }

    fn raw(&mut self) -> *mut lc::EVP_CIPHER_CTX {
        self.context.as_ptr()
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        // SAFETY: made by `EVP_CIPHER_CTX_new`, freed once; what it held is overwritten.
        unsafe { lc::EVP_CIPHER_CTX_free(self.context.as_ptr()) };
    }
}

fn checked(result: c_int) -> Result<(), CipherError> {
    if result == 1 {
        Ok(())
    } else {
        Err(CipherError)
    }
}

#[cfg(test)]
mod tests;
