//! What else holds machine frames: the vCPUs' contexts, `start_info`, and the page that
//! guest and hypervisor share.

use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::xen::{SharedInfo, StartInfo};
use zerocopy::{FromBytes, IntoBytes};

use super::p2m::Map;
use super::record::{Kind, PageType};
use super::{Error, Mfn, PAGE_SIZE, Page, Pfn, Result};

/// Entries of the GDT that are the guest's (`FIRST_RESERVED_GDT_ENTRY`).
pub const GDT_ENTRIES: u64 = 14 * 512;
/// `VGCF_online`.
const ONLINE: u64 = 1 << 5;
const BASIC: &str = Kind::PvVcpuBasic.name();

/// Frames of the guest's GDT.
fn gdt_frames(context: &VcpuGuestContext) -> Option<usize> {
    (context.gdt_ents <= GDT_ENTRIES).then(|| context.gdt_ents.div_ceil(512) as usize)
}

/// A register that holds a frame in bits 12 and up (CR3, with folded high bits for none in
/// a 64-bit guest).
fn frame_of(register: u64) -> u64 {
    register >> 12
}

/// Brings a vCPU's context into the stream's form. In vCPU 0's, `rdx` is the frame of
/// `start_info`: the argument of the guest's call to suspend.
///
/// # Errors
/// `Guest` if it has a frame that is not the guest's.
pub fn canonicalise_context(
    context: &mut VcpuGuestContext,
    vcpu: u32,
    mut pfn: impl FnMut(Mfn) -> Option<Pfn>,
) -> Result<()> {
    let mut own = |what: &str, frame: u64| {
        pfn(Mfn(frame)).map(|pfn| pfn.0).ok_or_else(|| {
            Error::Guest(format!(
                "vCPU {vcpu}'s {what} is frame {frame:#x}, which is not its own"
            ))
        })
    };
    if vcpu == 0 {
        context.user_regs.rdx = own("start_info", context.user_regs.rdx)?;
    }
    let Some(frames) = gdt_frames(context) else {
        return Err(Error::Guest(format!(
            "vCPU {vcpu} has a GDT of {} entries",
            context.gdt_ents
        )));
    };
    for frame in context.gdt_frames.iter_mut().take(frames) {
        *frame = own("GDT", *frame)?;
    }
    context.ctrlreg[3] = own("page table", frame_of(context.ctrlreg[3]))? << 12;
    if context.ctrlreg[1] != 0 {
        let user = own("page table for user space", frame_of(context.ctrlreg[1]))?;
        context.ctrlreg[1] = user << 12 | 1;
    }
    Ok(())
}

/// Makes a vCPU's context of the stream fit for the machine.
///
/// # Errors
/// `Record` if it refers to a frame that the guest does not have, or that is something else.
pub fn localise_context(context: &mut VcpuGuestContext, vcpu: u32, map: &Map) -> Result<()> {
    let own = |what: &str, pfn: u64, level: Option<u8>| {
        let mfn = map.mfn(Pfn(pfn)).ok_or_else(|| {
            Error::record(
                BASIC,
                format!("vCPU {vcpu}'s {what} is frame {pfn:#x}, which the guest does not have"),
            )
        })?;
        let kind = map.kind(Pfn(pfn));
        let fits = match level {
            None => kind == PageType::NORMAL,
            level => kind.level() == level,
        };
        match fits {
            true => Ok(mfn.0),
            false => Err(Error::record(
                BASIC,
                format!(
                    "vCPU {vcpu}'s {what} is frame {pfn:#x}, which has type {:#x}",
                    kind.bits()
                ),
            )),
        }
    };
    if vcpu == 0 {
        context.user_regs.rdx = own("start_info", context.user_regs.rdx, None)?;
    }
    context.flags |= ONLINE;
    let Some(frames) = gdt_frames(context) else {
        return Err(Error::record(
            BASIC,
            format!("vCPU {vcpu} has a GDT of {} entries", context.gdt_ents),
        ));
    };
    for frame in context.gdt_frames.iter_mut().take(frames) {
        *frame = own("GDT", *frame, None)?;
    }
    context.ctrlreg[3] = own("page table", frame_of(context.ctrlreg[3]), Some(4))? << 12;
    if context.ctrlreg[1] & 1 != 0 {
        let user = frame_of(context.ctrlreg[1]);
        context.ctrlreg[1] = own("page table for user space", user, Some(4))? << 12;
    }
    Ok(())
}

/// Rings of a guest and their event channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rings {
    /// Event channel of the store's ring, in the guest.
    pub store_port: u32,
    /// Event channel of the console's ring, in the guest.
    pub console_port: u32,
}

/// Frames of a guest's rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingFrames {
    /// The store's.
    pub store: Mfn,
    /// The console's.
    pub console: Mfn,
}

/// Rewrites `start_info` for a guest's new home; tells where its rings are.
///
/// # Errors
/// `Record` (of pages) if it names frames that the guest does not have.
pub fn localise_start_info(
    page: &mut Page,
    map: &Map,
    pages: u64,
    shared_info: Mfn,
    rings: Rings,
) -> Result<RingFrames> {
    let bad = |what: &str, pfn: u64| {
        Error::record(
            Kind::PageData.name(),
            format!(
                "start_info: the ring of the {what} is frame {pfn:#x}, which is no page of the guest"
            ),
        )
    };
    let Ok((mut info, _)) = StartInfo::read_from_prefix(&page[..]) else {
        return Err(bad("store", 0));
    };
    let ring = |what, pfn: u64| {
        map.mfn(Pfn(pfn))
            .filter(|_| map.kind(Pfn(pfn)) == PageType::NORMAL)
            .ok_or_else(|| bad(what, pfn))
    };
    let frames = RingFrames {
        store: ring("store", info.store_mfn)?,
        console: ring("console", info.console[0])?,
    };
    info.store_mfn = frames.store.0;
    info.store_evtchn = rings.store_port;
    info.console = [frames.console.0, u64::from(rings.console_port)];
    info.nr_pages = pages;
    info.shared_info = shared_info.0 << 12;
    info.flags = 0;
    page[..size_of::<StartInfo>()].copy_from_slice(info.as_bytes());
    Ok(frames)
}

/// What a new domain's shared page becomes: the guest's vCPU and architecture parts, no
/// event pending, all masked. The wall clock stays the new hypervisor's.
pub fn merge_shared_info(new: &mut Page, old: &Page) {
    let (Ok((mut shared, _)), Ok((saved, _))) = (
        SharedInfo::read_from_prefix(&new[..]),
        SharedInfo::read_from_prefix(&old[..]),
    ) else {
        return;
    };
    shared.vcpu_info = saved.vcpu_info;
    shared.arch = saved.arch;
    shared.arch.pfn_to_mfn_frame_list_list = 0;
    shared.evtchn_pending = [0; 64];
    shared.evtchn_mask = [u64::MAX; 64];
    for vcpu in &mut shared.vcpu_info {
        vcpu.evtchn_pending_sel = 0;
    }
    new[..size_of::<SharedInfo>()].copy_from_slice(shared.as_bytes());
}

const _: () = assert!(size_of::<SharedInfo>() <= PAGE_SIZE);

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn map() -> Map {
        let mut map = Map::default();
        for pfn in 0..8 {
            map.set(Pfn(pfn), Mfn(0x100 + pfn));
        }
        map.set_kind(Pfn(4), PageType::table(4, true).expect("a level"));
        map.set_kind(Pfn(3), PageType::table(3, false).expect("a level"));
        map
    }

    fn context() -> VcpuGuestContext {
        let mut context = VcpuGuestContext::new_zeroed();
        context.user_regs.rdx = 1;
        context.gdt_ents = 32;
        context.gdt_frames[0] = 2;
        context.ctrlreg[3] = 4 << 12;
        context.ctrlreg[1] = 4 << 12 | 1;
        context
    }

    #[test]
    fn contexts_go_there_and_back() {
        let map = map();
        let mut there = context();
        localise_context(&mut there, 0, &map).expect("all is there");
        assert_eq!(there.user_regs.rdx, 0x101);
        assert_eq!(there.gdt_frames[0], 0x102);
        assert_eq!(there.ctrlreg[3], 0x104 << 12);
        assert_eq!(there.ctrlreg[1], 0x104 << 12);
        assert_eq!(there.flags, ONLINE);
        canonicalise_context(&mut there, 0, |mfn| Some(Pfn(mfn.0 - 0x100))).expect("its own");
        there.flags = 0;
        assert_eq!(there, context());
    }

    #[test]
    fn contexts_with_wrong_frames_are_refused() {
        let map = map();
        let wrong: [fn(&mut VcpuGuestContext); 7] = [
            |c| c.user_regs.rdx = 9,
            |c| c.user_regs.rdx = 4,
            |c| c.gdt_frames[0] = 3,
            |c| c.gdt_ents = GDT_ENTRIES + 1,
            |c| c.ctrlreg[3] = 3 << 12,
            |c| c.ctrlreg[3] = u64::MAX,
            |c| c.ctrlreg[1] = 2 << 12 | 1,
        ];
        for (number, spoil) in wrong.iter().enumerate() {
            let mut context = context();
            spoil(&mut context);
            let error = localise_context(&mut context, 0, &map).expect_err("wrong");
            assert!(error.to_string().contains(BASIC), "{number}: {error}");
        }
        // Only vCPU 0's has start_info.
        let mut other = context();
        other.user_regs.rdx = 9;
        localise_context(&mut other, 1, &map).expect("any register");
        assert_eq!(other.user_regs.rdx, 9);
    }

    #[test]
    fn shared_pages_keep_the_new_clock() {
        let mut new = SharedInfo::new_zeroed();
        new.wc_sec = 77;
        let mut old = SharedInfo::new_zeroed();
        old.wc_sec = 5;
        old.evtchn_pending[0] = 1;
        old.vcpu_info[1].evtchn_pending_sel = 3;
        old.vcpu_info[1].evtchn_upcall_mask = 1;
        old.arch.pfn_to_mfn_frame_list_list = 4;
        old.arch.max_pfn = 99;
        let page = |info: &SharedInfo| {
            let mut page = [0; PAGE_SIZE];
            page[..size_of::<SharedInfo>()].copy_from_slice(info.as_bytes());
            page
        };
        let mut merged = page(&new);
        merge_shared_info(&mut merged, &page(&old));
        let (merged, _) = SharedInfo::read_from_prefix(&merged[..]).expect("a page");
        assert_eq!(merged.wc_sec, 77);
        assert_eq!(merged.evtchn_pending[0], 0);
        assert_eq!(merged.evtchn_mask[63], u64::MAX);
        assert_eq!(merged.vcpu_info[1].evtchn_pending_sel, 0);
        assert_eq!(merged.vcpu_info[1].evtchn_upcall_mask, 1);
        assert_eq!(merged.arch.max_pfn, 99);
        assert_eq!(merged.arch.pfn_to_mfn_frame_list_list, 0);
    }
}
