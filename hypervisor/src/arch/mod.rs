//! The x86-64 machine.

pub mod acpi;
pub mod apic;
pub mod console;
pub mod cpu;
pub mod debug;
pub mod descriptors;
pub mod entry;
pub mod faulting;
pub mod fpu;
pub mod heap;
pub mod mce;
pub mod memory;
pub mod msr;
pub mod paging;
pub mod panic;
pub mod percpu;
pub mod registers;
pub mod ring3;
pub mod serial;
pub mod smp;
pub mod symbols;
pub mod time;
pub mod tlb;
pub mod traps;
