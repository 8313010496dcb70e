//! The domain builder for Dom0: from a kernel's image in memory to a domain's
//! first page tables and registers.
//!
//! Data flows one way:
//!
//! 1. [`image`]: is it a bzImage, and how is its payload compressed; unpacked
//!    into a buffer that the caller gives ([`image::KernelImage::unpack`]).
//! 2. [`elf`] and [`notes`]: the ELF file's segments and what its Xen notes ask
//!    for ([`elf::Kernel::parse`]).
//! 3. [`layout`]: where everything goes in the initial mapping, for a given
//!    number of pages ([`layout::Layout::new`]). Nothing is allocated or written.
//! 4. [`populate`]: writes it all into the domain's frames.
//!
//! The frames come from the caller as a function from pseudo-physical to machine
//! frame numbers, so that this module owns no memory and takes no references.
//! The page tables that it writes obey the rules of page types; the caller has
//! them validated like any that a guest hands in.
//!
//! The behaviour is that of Xen 4.17 (its documents on domain building, and
//! elfnote.h and xen.h of its public headers).
//!
//! # Limits
//!
//! No input makes this code panic or allocate more than the caller's buffer
//! plus the dictionary of a decompressor. A kernel's numbers are untrusted until
//! [`layout::Layout::new`] has accepted them.

pub mod elf;
mod error;
pub mod hypercall_page;
pub mod image;
pub mod layout;
pub mod notes;
pub mod populate;
#[cfg(test)]
mod tests;

pub use error::BuildError;
