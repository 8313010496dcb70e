//! A guest's GDT and LDT in this CPU's windows, segment registers and bases.

use core::arch::asm;

use overcast_core::addr::{GuestVirtual, Mfn};
use overcast_core::mm::entry::Pte;

use crate::arch::descriptors::{LDT_WINDOW_PAGES, ldt_window, map_guest_gdt};
use crate::arch::entry::Segment;
use crate::arch::smp;
use crate::arch::{cpu, msr, paging, percpu};
use crate::host::{Host, mm};
use crate::vcpu::Vcpu;
use overcast_core::machine::Memory;

/// Descriptors in a page.
const DESCRIPTORS_PER_PAGE: u32 = 512;

/// Shows the page of the running vCPU's LDT that holds `offset` (bytes) in the
/// window, if it is there and may be a page of descriptors.
pub fn show_ldt_page(vcpu: &Vcpu, offset: u64) -> bool {
    let (base, entries) = vcpu.ldt.get();
    let page = (offset >> 12) as usize;
    if page >= LDT_WINDOW_PAGES || page as u32 >= entries.div_ceil(DESCRIPTORS_PER_PAGE) {
        return false;
    }
    let Some(address) = base.checked_add((page as u64) << 12) else {
        return false;
    };
    // The page tables of kernel mode tell which frame it is.
    let Some(mfn) = translate(vcpu, GuestVirtual(address)) else {
        return false;
    };
    let mut frames = vcpu.ldt_frames.lock();
    if frames[page] != Mfn(0) {
        // Shown already: the fault is a true one.
        return false;
    }
    let domain = &vcpu.domain().mm;
    if mm().get_descriptor_page(domain, mfn).is_err() {
        return false;
    }
    frames[page] = mfn;
    let this = percpu::this();
    this.ldt_pages.set(this.ldt_pages.get() | 1 << page);
    paging::map_local(ldt_window(this.cpu) + ((page as u64) << 12), mfn, true);
    true
}

/// The frame at an address under the kernel's page tables of a vCPU.
fn translate(vcpu: &Vcpu, address: GuestVirtual) -> Option<Mfn> {
    let mut table = Mfn(vcpu.kernel_root.get() >> 12);
    for level in (1..=4).rev() {
        let entry = Pte(Host.frame(table)?.load(address.table_index(level)));
        if !entry.is_present() {
            return None;
        }
        table = entry.mfn();
    }
    Some(table)
}

/// Takes the LDT's pages out of this CPU's window.
fn hide_ldt_window() {
    let this = percpu::this();
    let mut pages = this.ldt_pages.replace(0);
    while pages != 0 {
        let page = pages.trailing_zeros();
        pages &= pages - 1;
        paging::unmap_local(ldt_window(this.cpu) + (u64::from(page) << 12));
    }
}

/// Gives up the pages of a vCPU's LDT. It is the running one, or does not run.
pub fn drop_ldt_pages(vcpu: &Vcpu) {
    let this = percpu::this();
    if core::ptr::eq(this.current.get(), vcpu) {
        // What the window shows is what there is.
        if this.ldt_pages.get() == 0 {
            return;
        }
        hide_ldt_window();
    }
    let mut frames = vcpu.ldt_frames.lock();
    for frame in frames.iter_mut() {
        let mfn = core::mem::replace(frame, Mfn(0));
        if mfn != Mfn(0) {
            mm().put_descriptor_page(mfn);
        }
    }
}

/// Shows the descriptor tables of the vCPU that is about to run here.
pub fn load_tables(vcpu: &Vcpu) {
    hide_ldt_window();
    map_guest_gdt(vcpu.gdt_frames(), smp::zero_page_or_bug());
    load_ldt(vcpu);
}

/// Loads the LDT register for the running vCPU. Its pages appear when touched.
pub fn load_ldt(vcpu: &Vcpu) {
    let this = percpu::this();
    for (page, &mfn) in vcpu.ldt_frames.lock().iter().enumerate() {
        if mfn != Mfn(0) {
            this.ldt_pages.set(this.ldt_pages.get() | 1 << page);
            paging::map_local(ldt_window(this.cpu) + ((page as u64) << 12), mfn, true);
        }
    }
    crate::arch::descriptors::load_ldt(this.gdt_mfn.get(), vcpu.ldt.get().1);
}

/// The selector in a data segment register.
pub fn read_segment(segment: Segment) -> u16 {
    let value: u16;
    // SAFETY: reads a register.
    unsafe {
        match segment {
            Segment::Ds => {
                asm!("mov {:x}, ds", out(reg) value, options(nomem, nostack, preserves_flags))
            }
            Segment::Es => {
                asm!("mov {:x}, es", out(reg) value, options(nomem, nostack, preserves_flags))
            }
            Segment::Fs => {
                asm!("mov {:x}, fs", out(reg) value, options(nomem, nostack, preserves_flags))
            }
            Segment::Gs => {
                asm!("mov {:x}, gs", out(reg) value, options(nomem, nostack, preserves_flags))
            }
        }
    }
    value
}

/// Whether RDFSBASE and the like may be used now: the guest that runs chose so.
fn fsgsbase_enabled() -> bool {
    cpu::features().fsgsbase && cpu::read_cr4() & cpu::cr4::FSGSBASE != 0
}

/// The base of FS or GS.
pub fn read_base(segment: Segment) -> u64 {
    if fsgsbase_enabled() {
        let value: u64;
        // SAFETY: CR4.FSGSBASE is set; reads a register.
        unsafe {
            if matches!(segment, Segment::Fs) {
                asm!("rdfsbase {}", out(reg) value, options(nomem, nostack, preserves_flags));
            } else {
                asm!("rdgsbase {}", out(reg) value, options(nomem, nostack, preserves_flags));
            }
        }
        return value;
    }
    msr::read(if matches!(segment, Segment::Fs) {
        msr::FS_BASE
    } else {
        msr::GS_BASE
    })
}

/// Sets the base of FS or GS to a canonical address.
pub fn write_base(segment: Segment, base: u64) {
    // SAFETY: the hypervisor uses neither; the base is canonical.
    unsafe {
        if fsgsbase_enabled() {
            if matches!(segment, Segment::Fs) {
                asm!("wrfsbase {}", in(reg) base, options(nomem, nostack, preserves_flags));
            } else {
                asm!("wrgsbase {}", in(reg) base, options(nomem, nostack, preserves_flags));
            }
        } else if matches!(segment, Segment::Fs) {
            msr::write(msr::FS_BASE, base);
        } else {
            msr::write(msr::GS_BASE, base);
        }
    }
}

/// The base of GS in the mode that is not running.
pub fn read_shadow_gs_base() -> u64 {
    msr::read(msr::KERNEL_GS_BASE)
}

/// Sets the base of GS of the mode that is not running, to a canonical address.
pub fn write_shadow_gs_base(base: u64) {
    // SAFETY: the hypervisor does not use GS; the base is canonical.
    unsafe { msr::write(msr::KERNEL_GS_BASE, base) };
}

/// Calls a function with user mode's GS base in place, from kernel mode.
pub fn with_user_gs(call: impl FnOnce()) {
    // SAFETY: the hypervisor does not use GS, and the bases are swapped back.
    unsafe { asm!("swapgs", options(nomem, nostack, preserves_flags)) };
    call();
    // SAFETY: as above.
    unsafe { asm!("mfence", "swapgs", options(nostack, preserves_flags)) };
}
