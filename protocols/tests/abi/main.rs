//! The specification, the C header and the crate say the same.
//!
//! `SPEC.md` is read as data: each table in it stands under a heading or a comment that
//! names what it lists, and is compared with the crate in both directions. The C header is
//! generated from the crate (layouts, codes, values) and from the specification (comments),
//! and a C compiler checks every offset and value of it. `BYWAY_BLESS=1` rewrites the header.

mod c_header;
mod document;
mod generator;
mod names;
mod specification;
