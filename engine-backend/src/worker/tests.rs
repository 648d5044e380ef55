//! Workers on in-memory guests.
