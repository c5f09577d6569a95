//! Files built from bytes, for tests.
