//! The Xen 4.17 public interface as `#[repr(C)]` types and typed constants, no logic.
#![no_std]
#![forbid(unsafe_code)]
