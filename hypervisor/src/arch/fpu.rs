//! FPU, SSE and AVX state of vCPUs.
//!
//! The registers of the vCPU that ran last on a CPU stay loaded there until
//! another vCPU is to run on it. The state is saved by XSAVE where the CPU has
//! it, else by FXSAVE. The hypervisor itself uses no FPU registers.

use core::alloc::Layout;
use core::arch::asm;
use core::cell::Cell;
use core::ptr::NonNull;

use crate::arch::{cpu, entry};

/// Size of the legacy region (FXSAVE).
pub const LEGACY_SIZE: usize = 512;
/// Offset and size of the XSAVE header.
const HEADER: core::ops::Range<usize> = 512..576;
/// The initial FPU control word.
const FCW_DEFAULT: u16 = 0x37f;
/// Components that a guest can use whatever XCR0 says: x87 and SSE.
const ALWAYS: u64 = 3;
/// XCR0 after a reset: x87.
const XCR0_RESET: u64 = 1;
/// The initial MXCSR.
const MXCSR_DEFAULT: u32 = 0x1f80;

/// The saved registers of a vCPU.
pub struct FpuState {
    area: NonNull<u8>,
    size: usize,
    /// XCR0 as the guest set it; x87 alone at first.
    pub xcr0: Cell<u64>,
    /// All state components that were ever enabled.
    pub xcr0_accumulated: Cell<u64>,
}

// SAFETY: the area is owned; who may use it is said in `vcpu`.
unsafe impl Send for FpuState {}
// SAFETY: as above.
unsafe impl Sync for FpuState {}

impl Drop for FpuState {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { alloc::alloc::dealloc(self.area.as_ptr(), layout(self.size)) }
    }
}

fn layout(size: usize) -> Layout {
    // SAFETY: 64 is a power of two, and sizes of state areas are a few KiB.
    unsafe { Layout::from_size_align_unchecked(size, 64) }
}

impl FpuState {
    /// A state area in its initial state; `None` if there is no memory.
    pub fn new() -> Option<Self> {
        let size = cpu::features().xsave_size.max(HEADER.end);
        // SAFETY: the size is not zero.
        let area = NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout(size)) })?;
        let state = Self {
            area,
            size,
            xcr0: Cell::new(XCR0_RESET),
            xcr0_accumulated: Cell::new(XCR0_RESET),
        };
        state.reset();
        Some(state)
    }

    /// Puts the area into the state that a CPU has after FNINIT.
    pub fn reset(&self) {
        // SAFETY: the area is `size` bytes and ours.
        unsafe {
            self.area.as_ptr().write_bytes(0, self.size);
            self.area.cast::<u16>().write(FCW_DEFAULT);
            self.area
                .as_ptr()
                .add(24)
                .cast::<u32>()
                .write(MXCSR_DEFAULT);
            // The header says that x87 and SSE hold values.
            self.area.as_ptr().add(512).cast::<u64>().write(3);
        }
    }

    /// Sets the legacy region; bits of MXCSR that the CPU lacks are dropped.
    pub fn set_legacy(&self, from: &[u8; LEGACY_SIZE]) {
        self.reset();
        // SAFETY: the area is longer than the legacy region.
        unsafe { self.area.cast::<[u8; LEGACY_SIZE]>().write(*from) };
        self.mask_mxcsr();
    }

    /// Copies the beginning of the area of a vCPU that does not run; what `to` has beyond
    /// it stays.
    pub fn read(&self, to: &mut [u8]) {
        let len = to.len().min(self.size);
        // SAFETY: the area is `size` bytes, and nobody writes it meanwhile.
        let area = unsafe { core::slice::from_raw_parts(self.area.as_ptr(), len) };
        to[..len].copy_from_slice(area);
    }

    /// Gives a vCPU that does not run another state, which was checked.
    pub fn write(&self, xcr0: u64, accumulated: u64, from: &[u8]) {
        self.reset();
        let len = from.len().min(self.size);
        // SAFETY: the area is `size` bytes, and nobody uses it meanwhile.
        let area = unsafe { core::slice::from_raw_parts_mut(self.area.as_ptr(), len) };
        area.copy_from_slice(&from[..len]);
        self.xcr0.set(xcr0);
        self.xcr0_accumulated.set(accumulated);
        self.mask_mxcsr();
    }

    /// Drops bits of MXCSR that the CPU lacks.
    fn mask_mxcsr(&self) {
        // SAFETY: the area is longer than the legacy region.
        unsafe {
            let mxcsr = self.area.as_ptr().add(24).cast::<u32>();
            mxcsr.write(mxcsr.read() & cpu::features().mxcsr_mask);
        }
    }

    /// Saves this CPU's registers. The caller cleared CR0.TS.
    pub fn save(&self) {
        let features = cpu::features();
        // SAFETY: the area is large enough for all that XCR0 can hold, and aligned.
        unsafe {
            if features.xsave {
                self.load_xcr0(self.xcr0_accumulated.get() | ALWAYS);
                if features.xsaveopt {
                    asm!("xsaveopt64 [{}]", in(reg) self.area.as_ptr(), in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
                } else {
                    asm!("xsave64 [{}]", in(reg) self.area.as_ptr(), in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
                }
            } else {
                asm!("fxsave64 [{}]", in(reg) self.area.as_ptr(), options(nostack));
            }
        }
    }

    /// Loads this CPU's registers. The caller cleared CR0.TS.
    pub fn load(&self) {
        let features = cpu::features();
        if features.xsave {
            // The state may hold components that XCR0 does not enable now; and those
            // that it does not hold are to be as after a reset, not as the vCPU
            // before left them: this one may enable them yet.
            self.load_xcr0(features.xcr0);
        }
        // SAFETY: the area is large enough and aligned; a state that the CPU refuses
        // (set by a control domain) is replaced by the initial one.
        unsafe {
            if entry::xrstor_safe(self.area.as_ptr(), features.xsave).is_none() {
                self.reset();
                let _ = entry::xrstor_safe(self.area.as_ptr(), features.xsave);
            }
        }
        if features.xsave {
            self.load_guest_xcr0();
        }
    }

    /// Sets XCR0 as the guest asked, after checking.
    pub fn set_xcr0(&self, value: u64) {
        self.xcr0.set(value);
        self.xcr0_accumulated
            .set(self.xcr0_accumulated.get() | value);
        self.load_guest_xcr0();
    }

    /// Loads XCR0 for the guest. A kernel without XSAVE leaves it as it is after a reset; its
    /// programs may find by CPUID (where that does not fault) that XSAVE is on, and the C
    /// library's loader then saves arguments in SSE registers by it: as on Xen, SSE is on.
    fn load_guest_xcr0(&self) {
        self.load_xcr0(match self.xcr0.get() {
            XCR0_RESET => ALWAYS,
            value => value,
        });
    }

    fn load_xcr0(&self, value: u64) {
        // SAFETY: only components for which the area has room are ever accepted.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
        }
    }
}

/// Clears CR0.TS.
pub fn clear_ts() {
    // SAFETY: the hypervisor uses no FPU registers.
    unsafe { asm!("clts", options(nomem, nostack, preserves_flags)) };
}

/// Sets CR0.TS.
pub fn set_ts() {
    // SAFETY: as above.
    unsafe {
        asm!("mov {t}, cr0", "or {t}, 8", "mov cr0, {t}", t = out(reg) _, options(nomem, nostack));
    }
}
