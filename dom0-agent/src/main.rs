//! The `overcast` command of Dom0.
fn main() {}
