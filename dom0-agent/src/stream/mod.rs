//! Saved domains.
