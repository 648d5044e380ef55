//! The macro that declares a wire structure: its Rust type, its encoding from and
//! to bytes, the compile-time proof of its offsets, and the table from which the C
//! header is generated. One declaration, so the four cannot disagree.

/// A type that can stand in a wire structure.
pub trait WireField: Copy {
    /// Bytes it takes.
    const SIZE: usize;
    /// Its C type; arrays of bytes are `u8` with [`Self::C_COUNT`] elements.
    const C_TYPE: &'static str;
    /// Number of array elements, 1 for a scalar.
    const C_COUNT: usize;
    /// All bytes 0.
    const ZERO: Self;
    /// Decodes from exactly [`Self::SIZE`] bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Encodes into exactly [`Self::SIZE`] bytes.
    fn write(self, bytes: &mut [u8]);
}

macro_rules! scalar_field {
    ($($t:ty => $c:literal),*) => {$(
        impl WireField for $t {
            const SIZE: usize = size_of::<$t>();
            const C_TYPE: &'static str = $c;
            const C_COUNT: usize = 1;
            const ZERO: Self = 0;
            #[inline]
            fn read(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$t>()];
                raw.copy_from_slice(bytes);
                <$t>::from_le_bytes(raw)
            }
            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
scalar_field!(u8 => "__u8", u16 => "__le16", u32 => "__le32", u64 => "__le64");

impl<const N: usize> WireField for [u8; N] {
    const SIZE: usize = N;
    const C_TYPE: &'static str = "__u8";
    const C_COUNT: usize = N;
    const ZERO: Self = [0; N];
    fn read(bytes: &[u8]) -> Self {
        let mut raw = [0; N];
        raw.copy_from_slice(bytes);
        raw
    }
    fn write(self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self);
    }
}

/// One field of a wire structure, for generators and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldLayout {
    /// Name, the same in Rust and C.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    /// C element type.
    pub c_type: &'static str,
    /// Number of elements; 1 for a scalar.
    pub count: usize,
}

/// A wire structure, for generators and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StructLayout {
    /// Name of the Rust type.
    pub name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// Fields in order.
    pub fields: &'static [FieldLayout],
}

macro_rules! wire_struct {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $size:literal align $align:literal {
            $( $(#[$fmeta:meta])* $field:ident: $ty:ty = $offset:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[repr(C, align($align))]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $ty, )*
        }

        const _: () = {
            use $crate::wire::WireField;
            assert!(size_of::<$name>() == $size, "size differs from the specification");
            assert!(align_of::<$name>() == $align, "alignment differs from the specification");
            $( assert!(core::mem::offset_of!($name, $field) == $offset, "offset differs from the specification"); )*
            assert!(0 $( + <$ty as WireField>::SIZE )* == $size, "implicit padding");
        };

        impl $name {
            /// Size on the wire, in bytes.
            pub const SIZE: usize = $size;

            /// Where each field lies.
            pub const LAYOUT: $crate::wire::StructLayout = $crate::wire::StructLayout {
                name: stringify!($name),
                size: $size,
                align: $align,
                fields: &[ $( $crate::wire::FieldLayout {
                    name: stringify!($field),
                    offset: $offset,
                    c_type: <$ty as $crate::wire::WireField>::C_TYPE,
                    count: <$ty as $crate::wire::WireField>::C_COUNT,
                }, )* ],
            };

            /// Decodes a private copy of the bytes; every bit pattern decodes. Inline, so that what is made of words that
            /// are in registers does not go through memory.
            #[inline(always)]
            #[must_use]
            pub fn from_bytes(bytes: &[u8; $size]) -> Self {
                Self { $( $field: <$ty as $crate::wire::WireField>::read(
                    &bytes[$offset..$offset + <$ty as $crate::wire::WireField>::SIZE]), )* }
            }

            /// Encodes into bytes.
            #[must_use]
            pub fn to_bytes(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                $( <$ty as $crate::wire::WireField>::write(self.$field,
                    &mut bytes[$offset..$offset + <$ty as $crate::wire::WireField>::SIZE]); )*
                bytes
            }
        }

        impl Default for $name {
            /// All zero. Field by field, since the engine starts every completion with it: bytes that are decoded would
            /// go through memory.
            #[inline]
            fn default() -> Self {
                Self { $( $field: <$ty as $crate::wire::WireField>::ZERO, )* }
            }
        }
    };
}
pub(crate) use wire_struct;
