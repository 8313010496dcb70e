//! Boot protocols (Multiboot 1, Multiboot 2, PVH) normalised into one `BootInfo`.
#![cfg_attr(not(test), no_std)]
