//! Random sequences of capability operations against a naive model.
