use std::vec;
use std::vec::Vec;

use super::world::{Cpu, NOT_MAPPABLE, World, copy_op, first_frame, map_op, unmap_op};
use super::*;
use crate::machine::Never;
use crate::machine::mock::Always;

const HOST: u32 = GNTMAP_HOST_MAP;
const DEVICE: u32 = GNTMAP_DEVICE_MAP;
const RO: u32 = GNTMAP_READONLY;
const SELF: u16 = 0x7ff0;
const BOTH: u16 = GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF;

fn world() -> World {
    World::new(3, GrantLimits::default())
}

/// Frame `n` of domain 1.
fn frame(n: u64) -> u64 {
    first_frame(1) + n
}

/// Domain 2 maps.
fn map(world: &World, op: GnttabMapGrantRef) -> GnttabMapGrantRef {
    let mut op = op;
    world.table(2).map_grant_ref(&world.cpu(2), &mut op);
    op
}

fn unmap(world: &World, handle: u32, address: u64, device: u64) -> i16 {
    let mut op = [unmap_op(handle, address, device)];
    world.table(2).unmap_grant_refs(&world.cpu(2), &mut op);
    op[0].status
}

fn copy(world: &World, by: u16, op: GnttabCopy) -> i16 {
    let cpu = world.cpu(by);
    let mut op = op;
    CopySession::new(&cpu, &world.table(by))
        .copy(&mut op)
        .unwrap();
    op.status
}

fn idle(world: &World) {
    world.assert_idle();
    assert_eq!(world.references(), (0, 0));
}

#[test]
fn map_and_unmap() {
    let w = world();
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    let op = map(&w, map_op(1, 8, 0x1000, HOST));
    assert_eq!((op.status, op.handle), (GNTST_OKAY, 0));
    assert_eq!(op.dev_bus_addr, frame(0) << 12);
    assert_eq!(w.entry(2, 0x1000), Some((frame(0), true)));
    assert_eq!(w.status(1, 8), GTF_READING | GTF_WRITING);
    assert_eq!((w.page(frame(0)).refs, w.page(frame(0)).types), (1, 1));

    let ro = map(&w, map_op(1, 8, 0x2000, HOST | RO));
    assert_eq!((ro.status, ro.handle), (GNTST_OKAY, 1));
    assert_eq!(unmap(&w, op.handle, 0x1000, 0), GNTST_OKAY);
    assert_eq!(w.status(1, 8), GTF_READING);
    assert_eq!(unmap(&w, op.handle, 0x1000, 0), GNTST_BAD_HANDLE);
    assert_eq!(unmap(&w, ro.handle, 0x2000, 0), GNTST_OKAY);
    assert_eq!(w.status(1, 8), 0);
    assert_eq!(w.entries().len(), 0);
    idle(&w);
}

#[test]
fn map_errors_leave_nothing() {
    let w = world();
    let f = frame(0);
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, f);
    w.grant_v1(1, 9, GTF_PERMIT_ACCESS | GTF_READONLY, 2, f);
    w.grant_v1(1, 10, GTF_PERMIT_ACCESS, 3, f);
    w.grant_v1(1, 11, GTF_PERMIT_ACCESS, 2, first_frame(3));
    w.grant_v1(1, 12, GTF_PERMIT_ACCESS | GTF_SUB_PAGE, 2, f);
    w.grant_v1(1, 13, GTF_ACCEPT_TRANSFER, 2, f);
    w.grant_v1(1, 14, GTF_PERMIT_ACCESS, 2, frame(7));
    w.set_is_table(frame(7), true);
    for (op, status) in [
        (map_op(1, 8, 0x1000, 0), GNTST_BAD_GNTREF),
        (map_op(1, 8, 0x1000, RO), GNTST_BAD_GNTREF),
        (map_op(9, 8, 0x1000, HOST), GNTST_BAD_DOMAIN),
        (map_op(SELF, 8, 0x1000, HOST), GNTST_BAD_DOMAIN),
        (map_op(1, 512, 0x1000, HOST), GNTST_BAD_GNTREF),
        (map_op(1, u32::MAX, 0x1000, HOST), GNTST_BAD_GNTREF),
        (map_op(1, 7, 0x1000, HOST), GNTST_GENERAL_ERROR),
        (map_op(1, 9, 0x1000, HOST), GNTST_GENERAL_ERROR),
        (map_op(1, 10, 0x1000, HOST), GNTST_GENERAL_ERROR),
        (map_op(1, 11, 0x1000, HOST), GNTST_BAD_PAGE),
        (map_op(1, 12, 0x1000, HOST), GNTST_GENERAL_ERROR),
        (map_op(1, 13, 0x1000, HOST), GNTST_GENERAL_ERROR),
        (map_op(1, 14, 0x1000, HOST), GNTST_GENERAL_ERROR),
        (map_op(1, 14, 0x1000, HOST | DEVICE), GNTST_GENERAL_ERROR),
        (map_op(1, 8, NOT_MAPPABLE, HOST), GNTST_GENERAL_ERROR),
        (
            map_op(1, 8, NOT_MAPPABLE, HOST | DEVICE),
            GNTST_GENERAL_ERROR,
        ),
        // XSA-227: an entry's address that is not aligned.
        (
            map_op(1, 8, 0x1002, HOST | GNTMAP_CONTAINS_PTE),
            GNTST_GENERAL_ERROR,
        ),
    ] {
        let done = map(&w, op);
        assert_eq!(done.status, status, "{op:?}");
        assert_eq!(w.references(), (0, 0), "{op:?}");
        w.assert_idle();
        for reference in 7..15 {
            assert_eq!(w.status(1, reference) & GTF_WRITING, 0, "{op:?}");
            if reference != 13 {
                assert_eq!(w.status(1, reference), 0, "{op:?} {reference}");
            }
        }
    }
    // A page table may be mapped read-only.
    let op = map(&w, map_op(1, 14, 0x1000, HOST | RO));
    assert_eq!(op.status, GNTST_OKAY);
    assert_eq!(unmap(&w, op.handle, 0x1000, 0), GNTST_OKAY);
    idle(&w);
}

/// XSA-224: a mapping by host and device, unmapped one after the other, takes and
/// gives back two references of each kind.
#[test]
fn host_and_device_are_counted_apart() {
    let w = world();
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    for device_first in [false, true] {
        let op = map(&w, map_op(1, 8, 0x1000, HOST | DEVICE));
        assert_eq!(op.status, GNTST_OKAY);
        assert_eq!((w.page(frame(0)).refs, w.page(frame(0)).types), (2, 2));
        assert_eq!(
            unmap(&w, op.handle, 0, op.dev_bus_addr + 4096),
            GNTST_BAD_DEV_ADDR
        );
        let (first, second) = if device_first {
            ((0, op.dev_bus_addr), (0x1000, 0))
        } else {
            ((0x1000, 0), (0, op.dev_bus_addr))
        };
        assert_eq!(unmap(&w, op.handle, first.0, first.1), GNTST_OKAY);
        assert_eq!((w.page(frame(0)).refs, w.page(frame(0)).types), (1, 1));
        assert_eq!(w.status(1, 8), GTF_READING | GTF_WRITING);
        // Again: nothing is left of that part, so nothing happens.
        assert_eq!(unmap(&w, op.handle, first.0, first.1), GNTST_OKAY);
        assert_eq!((w.page(frame(0)).refs, w.page(frame(0)).types), (1, 1));
        // Naming neither does nothing.
        assert_eq!(unmap(&w, op.handle, 0, 0), GNTST_OKAY);
        assert_eq!(unmap(&w, op.handle, second.0, second.1), GNTST_OKAY);
        assert_eq!(unmap(&w, op.handle, second.0, second.1), GNTST_BAD_HANDLE);
        idle(&w);
    }
}

#[test]
fn unmap_of_another_address_changes_nothing() {
    let w = world();
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    let op = map(&w, map_op(1, 8, 0x1000, HOST));
    assert_eq!(unmap(&w, op.handle, 0x3000, 0), GNTST_GENERAL_ERROR);
    assert_eq!(unmap(&w, 1, 0x1000, 0), GNTST_BAD_HANDLE);
    assert_eq!(unmap(&w, u32::MAX, 0x1000, 0), GNTST_BAD_HANDLE);
    assert_eq!(w.page(frame(0)).refs, 1);
    assert_eq!(unmap(&w, op.handle, 0x1000, 0), GNTST_OKAY);
    idle(&w);
}

/// XSA-234: a read-only mapping put in place of a writable one, by moving its entry.
#[test]
fn unmap_and_replace_moves_the_entry() {
    let w = world();
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    w.grant_v1(1, 9, GTF_PERMIT_ACCESS, 2, frame(1));
    let writable = map(&w, map_op(1, 8, 0x1000, HOST));
    let readonly = map(&w, map_op(1, 9, 0x2000, HOST | RO));
    let mut ops = [GnttabUnmapAndReplace {
        host_addr: 0x2000,
        new_addr: 0x1000,
        handle: readonly.handle,
        status: 77,
        _pad0: [0; 2],
    }];
    w.table(2).unmap_and_replace(&w.cpu(2), &mut ops);
    assert_eq!(ops[0].status, GNTST_OKAY);
    assert_eq!(w.entry(2, 0x2000), Some((frame(0), true)));
    assert_eq!(w.entry(2, 0x1000), None);
    assert_eq!(w.page(frame(1)).refs, 0);
    assert_eq!((w.page(frame(0)).refs, w.page(frame(0)).types), (1, 1));
    assert_eq!(unmap(&w, writable.handle, 0x1000, 0), GNTST_GENERAL_ERROR);
    assert_eq!(unmap(&w, writable.handle, 0x2000, 0), GNTST_OKAY);
    idle(&w);
}

#[test]
fn pins_do_not_overflow() {
    let w = world();
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    let handles: Vec<_> = (0..128u64)
        .map(|i| {
            let op = map(&w, map_op(1, 8, 0x1000 * (i + 1), HOST | RO));
            assert_eq!(op.status, GNTST_OKAY);
            op.handle
        })
        .collect();
    assert_eq!(
        map(&w, map_op(1, 8, 0xff000, HOST | RO)).status,
        GNTST_GENERAL_ERROR
    );
    assert_eq!(w.pins(1, 8), 128 << 8);
    // Another kind still has room.
    let op = map(&w, map_op(1, 8, 0xff000, HOST));
    assert_eq!(op.status, GNTST_OKAY);
    assert_eq!(unmap(&w, op.handle, 0xff000, 0), GNTST_OKAY);
    for (i, handle) in handles.into_iter().enumerate() {
        assert_eq!(unmap(&w, handle, 0x1000 * (i as u64 + 1), 0), GNTST_OKAY);
    }
    idle(&w);
}

#[test]
fn handles_run_out() {
    let w = World::new(
        2,
        GrantLimits {
            max_maptrack_frames: 1,
            ..GrantLimits::default()
        },
    );
    for reference in 8..12 {
        w.grant_v1(1, reference, GTF_PERMIT_ACCESS, 2, frame(0));
    }
    // The last of 256 stays in the free list.
    let handles: Vec<_> = (0..255u64)
        .map(|i| {
            let op = map(&w, map_op(1, 8 + i as u32 % 4, 0x1000 * (i + 1), HOST | RO));
            assert_eq!(op.status, GNTST_OKAY);
            op.handle
        })
        .collect();
    assert_eq!(handles, (0..255).collect::<Vec<_>>());
    assert_eq!(
        map(&w, map_op(1, 8, 0xfff000, HOST | RO)).status,
        GNTST_NO_SPACE
    );
    assert_eq!(unmap(&w, 7, 0x8000, 0), GNTST_OKAY);
    let op = map(&w, map_op(1, 8, 0xfff000, HOST | RO));
    assert_eq!((op.status, op.handle), (GNTST_OKAY, 255));
    w.table(2).release_mappings(&w.cpu(2), &Never).unwrap();
    w.assert_idle();
}

#[test]
fn zapped_entries_keep_their_handle_and_lose_their_references() {
    let w = world();
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    let op = map(&w, map_op(1, 8, 0x1000, HOST));
    w.zap(2, 0x1000);
    assert_eq!(w.references(), (0, 0));
    assert_eq!(unmap(&w, op.handle, 0x1000, 0), GNTST_GENERAL_ERROR);
    // The pin stays, and is no reference to the frame: another use takes its own.
    assert_eq!(w.status(1, 8), GTF_READING | GTF_WRITING);
    let again = map(&w, map_op(1, 8, 0x2000, HOST));
    assert_eq!(again.status, GNTST_OKAY);
    assert_eq!(unmap(&w, again.handle, 0x2000, 0), GNTST_OKAY);
    w.table(2).release_mappings(&w.cpu(2), &Never).unwrap();
    idle(&w);
}

#[test]
fn death_of_the_mapper_releases_all() {
    let w = world();
    for reference in 8..108 {
        w.grant_v1(1, reference, GTF_PERMIT_ACCESS, 2, frame(0));
    }
    for i in 0..300u64 {
        let flags = match i % 3 {
            0 => HOST,
            1 => HOST | DEVICE,
            _ => DEVICE | RO,
        };
        let op = map(&w, map_op(1, 8 + i as u32 % 100, 0x1000 * (i + 1), flags));
        assert_eq!(op.status, GNTST_OKAY);
    }
    let dead = w.table(2);
    let mut rounds = 0;
    while dead.release_mappings(&w.cpu(2), &Always).is_err() {
        rounds += 1;
    }
    assert!(rounds > 0);
    w.assert_idle();
    for reference in 8..108 {
        assert_eq!(w.status(1, reference), 0);
    }
    for (domain, address) in w.entries().into_keys() {
        w.zap(domain, address);
    }
    idle(&w);
    // Nobody holds the dead domain's table or the granter's through handles.
    assert_eq!(Arc::strong_count(&w.table(1)), 2);
}

#[test]
fn death_of_the_granter_leaves_mappings() {
    let w = world();
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    let op = map(&w, map_op(1, 8, 0x1000, HOST));
    w.table(1).set_dying();
    assert_eq!(w.page(frame(0)).refs, 1);
    // A copy that would rely on the pin is refused.
    assert_eq!(
        copy(
            &w,
            2,
            copy_op((1, 8, 0), (SELF, first_frame(2), 0), 8, GNTCOPY_SOURCE_GREF)
        ),
        GNTST_BAD_DOMAIN
    );
    assert_eq!(unmap(&w, op.handle, 0x1000, 0), GNTST_OKAY);
    idle(&w);
}

// Copies

fn fill(w: &World, mfn: u64, seed: u8) {
    let data: Vec<u8> = (0..4096)
        .map(|i| (i as u8).wrapping_mul(7) ^ seed)
        .collect();
    w.cpu(1).frame(Mfn(mfn)).unwrap().write(0, &data);
}

fn read(w: &World, mfn: u64, offset: usize, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    w.cpu(1).frame(Mfn(mfn)).unwrap().read(offset, &mut out);
    out
}

#[test]
fn copy_by_reference_and_by_frame() {
    let w = world();
    fill(&w, frame(0), 1);
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS | GTF_READONLY, 2, frame(0));
    w.grant_v1(1, 9, GTF_PERMIT_ACCESS, 2, frame(1));
    let own = first_frame(2);
    assert_eq!(
        copy(
            &w,
            2,
            copy_op((1, 8, 3), (SELF, own, 1001), 2999, GNTCOPY_SOURCE_GREF)
        ),
        GNTST_OKAY
    );
    assert_eq!(read(&w, own, 1001, 2999), read(&w, frame(0), 3, 2999));
    assert_eq!(
        copy(
            &w,
            2,
            copy_op((SELF, own, 1001), (1, 9, 0), 100, GNTCOPY_DEST_GREF)
        ),
        GNTST_OKAY
    );
    assert_eq!(read(&w, frame(1), 0, 100), read(&w, frame(0), 3, 100));
    assert_eq!(
        copy(&w, 2, copy_op((1, 8, 0), (1, 9, 0), 4096, BOTH)),
        GNTST_OKAY
    );
    assert_eq!(read(&w, frame(1), 0, 4096), read(&w, frame(0), 0, 4096));
    assert_eq!(
        copy(&w, 2, copy_op((SELF, own, 0), (SELF, own + 1, 0), 4096, 0)),
        GNTST_OKAY
    );
    assert_eq!((w.status(1, 8), w.status(1, 9)), (0, 0));
    idle(&w);
}

#[test]
fn copy_errors_leave_nothing() {
    let w = world();
    let own = first_frame(2);
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    w.grant_v1(1, 9, GTF_PERMIT_ACCESS | GTF_READONLY, 2, frame(0));
    w.grant_v1(1, 10, GTF_PERMIT_ACCESS, 2, frame(7));
    w.set_is_table(frame(7), true);
    w.set_is_table(own + 7, true);
    let source = GNTCOPY_SOURCE_GREF;
    let dest = GNTCOPY_DEST_GREF;
    for (op, status) in [
        // Others' frames only by grant.
        (
            copy_op((1, frame(0), 0), (SELF, own, 0), 8, 0),
            GNTST_PERMISSION_DENIED,
        ),
        (
            copy_op((2, own, 0), (SELF, own, 0), 8, 0),
            GNTST_PERMISSION_DENIED,
        ),
        (
            copy_op((9, 8, 0), (SELF, own, 0), 8, source),
            GNTST_BAD_DOMAIN,
        ),
        (
            copy_op((1, 600, 0), (SELF, own, 0), 8, source),
            GNTST_BAD_GNTREF,
        ),
        (
            copy_op((1, 20, 0), (SELF, own, 0), 8, source),
            GNTST_GENERAL_ERROR,
        ),
        (
            copy_op((1, 8, 0), (SELF, frame(1), 0), 8, source),
            GNTST_BAD_PAGE,
        ),
        (
            copy_op((1, 8, 0), (SELF, u64::MAX, 0), 8, source),
            GNTST_BAD_PAGE,
        ),
        (
            copy_op((1, 8, 0), (SELF, own + 7, 0), 8, source),
            GNTST_GENERAL_ERROR,
        ),
        (
            copy_op((SELF, own, 0), (1, 9, 0), 8, dest),
            GNTST_GENERAL_ERROR,
        ),
        (
            copy_op((SELF, own, 0), (1, 10, 0), 8, dest),
            GNTST_GENERAL_ERROR,
        ),
        (
            copy_op((1, 8, 4090), (SELF, own, 0), 8, source),
            GNTST_BAD_COPY_ARG,
        ),
        (
            copy_op((1, 8, 0), (SELF, own, 4090), 8, source),
            GNTST_BAD_COPY_ARG,
        ),
        (
            copy_op((1, 8, 0), (SELF, own, 0), 4097, source),
            GNTST_BAD_COPY_ARG,
        ),
        (
            copy_op((1, 8, 65535), (SELF, own, 65535), 65535, source),
            GNTST_BAD_COPY_ARG,
        ),
    ] {
        assert_eq!(copy(&w, 2, op), status, "{op:?}");
        idle(&w);
        assert_eq!((w.status(1, 8), w.status(1, 9)), (0, 0));
    }
}

/// Within one hypercall the way an end is named may change while the domain does not.
#[test]
fn copy_session_checks_each_operation() {
    let w = world();
    let own = first_frame(2);
    let secret = frame(5);
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    w.grant_v1(1, 9, GTF_PERMIT_ACCESS, 3, frame(0));
    let cpu = w.cpu(2);
    let table = w.table(2);
    let mut session = CopySession::new(&cpu, &table);
    let mut run = |mut op: GnttabCopy| {
        session.copy(&mut op).unwrap();
        op.status
    };
    let source = GNTCOPY_SOURCE_GREF;
    let good = copy_op((1, 8, 0), (SELF, own, 0), 8, source);
    assert_eq!(run(good), GNTST_OKAY);
    assert_eq!(run(good), GNTST_OKAY);
    assert_eq!(w.pins(1, 8), 1 << 8);
    // The same domain, but a frame of it instead of a grant.
    assert_eq!(
        run(copy_op((1, secret, 0), (SELF, own, 0), 8, 0)),
        GNTST_PERMISSION_DENIED
    );
    assert_eq!(run(good), GNTST_OKAY);
    assert_eq!(
        run(copy_op((1, 9, 0), (SELF, own, 0), 8, source)),
        GNTST_GENERAL_ERROR
    );
    assert_eq!(run(good), GNTST_OKAY);
    drop(session);
    idle(&w);
}

// Version 2

fn v2_world() -> World {
    let w = world();
    for domain in 1..=3 {
        w.table(domain).set_version(&w.cpu(domain), 2).unwrap();
    }
    w
}

#[test]
fn v2_map_and_status() {
    let w = v2_world();
    w.grant_v2(1, 8, GTF_PERMIT_ACCESS, 2, 0, frame(0));
    let op = map(&w, map_op(1, 8, 0x1000, HOST));
    assert_eq!(op.status, GNTST_OKAY);
    assert_eq!(w.status(1, 8), GTF_READING | GTF_WRITING);
    let status_frame = w.table(1).status_frame(0).unwrap();
    assert_eq!(
        w.cpu(1).frame(status_frame).unwrap().load_u16(16),
        GTF_READING | GTF_WRITING
    );
    assert_eq!(
        map(&w, map_op(1, 256, 0x2000, HOST)).status,
        GNTST_BAD_GNTREF
    );
    w.grant_v2(1, 9, GTF_PERMIT_ACCESS | GTF_SUB_PAGE, 2, 0, frame(0));
    assert_eq!(
        map(&w, map_op(1, 9, 0x2000, HOST | RO)).status,
        GNTST_GENERAL_ERROR
    );
    w.grant_v2(1, 10, GTF_TRANSITIVE, 2, 3, 8);
    assert_eq!(
        map(&w, map_op(1, 10, 0x2000, HOST | RO)).status,
        GNTST_GENERAL_ERROR
    );
    assert_eq!(unmap(&w, op.handle, 0x1000, 0), GNTST_OKAY);
    assert_eq!(w.status(1, 8), 0);
    idle(&w);
}

#[test]
fn v2_sub_page_copies_are_bounded() {
    let w = v2_world();
    let own = first_frame(2);
    fill(&w, frame(0), 9);
    // Bytes 100 to 299.
    w.grant_v2(
        1,
        8,
        GTF_PERMIT_ACCESS | GTF_SUB_PAGE,
        2,
        200 << 16 | 100,
        frame(0),
    );
    let try_copy = |offset, len| {
        copy(
            &w,
            2,
            copy_op((1, 8, offset), (SELF, own, 0), len, GNTCOPY_SOURCE_GREF),
        )
    };
    assert_eq!(try_copy(100, 200), GNTST_OKAY);
    assert_eq!(read(&w, own, 0, 200), read(&w, frame(0), 100, 200));
    assert_eq!(try_copy(99, 10), GNTST_GENERAL_ERROR);
    assert_eq!(try_copy(100, 201), GNTST_GENERAL_ERROR);
    assert_eq!(try_copy(300, 1), GNTST_GENERAL_ERROR);
    // Held by a backend, it cannot be mapped and the version cannot change.
    let cpu = w.cpu(2);
    let held = w
        .table(1)
        .map_for_backend(&cpu, DomainId(2), GrantRef(8), true)
        .unwrap();
    assert_eq!(
        (held.mfn(), held.offset(), held.length()),
        (Mfn(frame(0)), 100, 200)
    );
    assert!(held.allows(100, 200) && held.allows(299, 1));
    assert!(!held.allows(99, 2) && !held.allows(100, 201) && !held.allows(usize::MAX, 2));
    w.grant_v2(1, 8, GTF_PERMIT_ACCESS, 2, 0, frame(0));
    assert_eq!(
        map(&w, map_op(1, 8, 0x1000, HOST | RO)).status,
        GNTST_GENERAL_ERROR
    );
    assert_eq!(w.table(1).set_version(&w.cpu(1), 1), Err(Error::Busy));
    drop(held);
    idle(&w);
    assert_eq!(w.table(1).set_version(&w.cpu(1), 1), Ok(()));
}

#[test]
fn v2_transitive_copies() {
    let w = v2_world();
    fill(&w, frame(0), 5);
    let own = first_frame(3);
    // 1 grants to 2, and 2 passes it on to 3.
    w.grant_v2(1, 8, GTF_PERMIT_ACCESS, 2, 0, frame(0));
    w.grant_v2(2, 9, GTF_TRANSITIVE, 3, 1, 8);
    let op = copy_op((2, 9, 0), (SELF, own, 0), 512, GNTCOPY_SOURCE_GREF);
    assert_eq!(copy(&w, 3, op), GNTST_OKAY);
    assert_eq!(read(&w, own, 0, 512), read(&w, frame(0), 0, 512));
    idle(&w);
    assert_eq!((w.status(1, 8), w.status(2, 9)), (0, 0));
    // While it is in use both entries are, and version 1 is out of reach.
    let cpu = w.cpu(3);
    let table = w.table(3);
    let mut session = CopySession::new(&cpu, &table);
    let mut first = op;
    session.copy(&mut first).unwrap();
    assert_eq!((w.pins(1, 8), w.pins(2, 9)), (1 << 8, 1 << 8));
    assert_eq!((w.status(1, 8), w.status(2, 9)), (GTF_READING, GTF_READING));
    assert_eq!(copy(&w, 3, op), GNTST_OKAY);
    assert_eq!(w.table(2).set_version(&w.cpu(2), 1), Err(Error::Busy));
    drop(session);
    idle(&w);
    // Not to itself, not through a second one, and not for writing what is read-only.
    w.grant_v2(2, 9, GTF_TRANSITIVE, 3, 2, 8);
    assert_eq!(copy(&w, 3, op), GNTST_GENERAL_ERROR);
    w.grant_v2(2, 9, GTF_TRANSITIVE, 3, 9, 8);
    assert_eq!(copy(&w, 3, op), GNTST_GENERAL_ERROR);
    w.grant_v2(2, 9, GTF_TRANSITIVE, 3, 1, 8);
    w.grant_v2(1, 8, GTF_TRANSITIVE, 2, 3, 8);
    assert_eq!(copy(&w, 3, op), GNTST_GENERAL_ERROR);
    w.grant_v2(1, 8, GTF_PERMIT_ACCESS | GTF_READONLY, 2, 0, frame(0));
    assert_eq!(
        copy(
            &w,
            3,
            copy_op((SELF, own, 0), (2, 9, 0), 8, GNTCOPY_DEST_GREF)
        ),
        GNTST_GENERAL_ERROR
    );
    assert_eq!((w.status(1, 8), w.status(2, 9)), (0, 0));
    // The entry of 1 only may be mapped by 2, while 3 copies through it.
    w.grant_v2(1, 8, GTF_PERMIT_ACCESS, 2, 0, frame(0));
    let mapped = map(&w, map_op(1, 8, 0x1000, HOST));
    assert_eq!(copy(&w, 3, op), GNTST_OKAY);
    assert_eq!(unmap(&w, mapped.handle, 0x1000, 0), GNTST_OKAY);
    idle(&w);
}

#[test]
fn backends_use_grants() {
    let w = world();
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 0, frame(3));
    w.grant_v1(1, 9, GTF_PERMIT_ACCESS | GTF_READONLY, 0, frame(3));
    let cpu = w.cpu(2);
    let table = w.table(1);
    let back = DomainId(0);
    let grant = table
        .map_for_backend(&cpu, back, GrantRef(8), false)
        .unwrap();
    assert_eq!(
        (grant.mfn(), grant.offset(), grant.length()),
        (Mfn(frame(3)), 0, 4096)
    );
    assert_eq!((w.page(frame(3)).refs, w.page(frame(3)).types), (1, 1));
    assert_eq!(w.status(1, 8), GTF_READING | GTF_WRITING);
    drop(grant);
    idle(&w);
    assert_eq!(w.status(1, 8), 0);
    for (reference, domain, error) in [
        (9, back, GrantError::General),
        (8, DomainId(2), GrantError::General),
        (512, back, GrantError::BadRef),
    ] {
        assert_eq!(
            table
                .map_for_backend(&cpu, domain, GrantRef(reference), false)
                .err(),
            Some(error)
        );
        idle(&w);
    }
    w.set_is_table(frame(3), true);
    assert_eq!(
        table.map_for_backend(&cpu, back, GrantRef(8), false).err(),
        Some(GrantError::General)
    );
    assert_eq!(w.status(1, 8), 0);
    idle(&w);
}

#[test]
fn backends_use_many_grants_or_none() {
    let w = world();
    let (cpu, table, back) = (w.cpu(2), w.table(1), DomainId(0));
    for n in 0..4 {
        w.grant_v1(1, 8 + n, GTF_PERMIT_ACCESS, 0, frame(n.into()));
    }
    let references = |last| [8, 9, 10, last].map(GrantRef).into_iter();
    let mut grants = BackendGrants::new(&cpu, table.clone(), back);
    assert_eq!(grants.map(references(11), false), Ok(()));
    let frames: Vec<_> = grants.frames().iter().map(|f| f.mfn().0).collect();
    assert_eq!(frames, [0, 1, 2, 3].map(frame));
    assert!(grants.frames()[0].allows(0, 4096) && !grants.frames()[0].allows(1, 4096));
    assert_eq!((w.page(frame(2)).refs, w.page(frame(2)).types), (1, 1));
    assert_eq!(w.status(1, 10), GTF_READING | GTF_WRITING);
    // Others take their place, one of them twice.
    assert_eq!(grants.map(references(8), true), Ok(()));
    assert_eq!((w.page(frame(0)).refs, w.page(frame(0)).types), (2, 0));
    assert_eq!(w.status(1, 8), GTF_READING);
    assert_eq!(w.status(1, 11), 0);
    grants.clear();
    idle(&w);
    // What was taken is given back when the last is refused: no grant, no frame of the
    // granter's, a page table.
    w.grant_v1(1, 12, GTF_PERMIT_ACCESS, 0, first_frame(2));
    w.grant_v1(1, 13, GTF_PERMIT_ACCESS, 0, frame(5));
    w.set_is_table(frame(5), true);
    for (last, error) in [
        (512, GrantError::BadRef),
        (20, GrantError::General),
        (12, GrantError::BadPage),
        (13, GrantError::General),
    ] {
        let refused = Err((GrantRef(last), error));
        assert_eq!(grants.map(references(last), false), refused);
        assert!(grants.frames().is_empty());
        idle(&w);
        assert_eq!(w.status(1, 8), 0);
    }
    assert_eq!(grants.map(references(13), true), Ok(()));
    drop(grants);
    idle(&w);
}

// The table itself

#[test]
fn setup_and_size() {
    let w = World::new(
        1,
        GrantLimits {
            max_frames: 4,
            ..GrantLimits::default()
        },
    );
    let (t, cpu) = (w.table(1), w.cpu(1));
    assert_eq!(t.query_size(), (1, 4));
    assert_eq!(t.setup_table(&cpu, 0), Ok(()));
    assert_eq!(t.setup_table(&cpu, 5), Err(GrantError::General));
    assert_eq!(t.setup_table(&cpu, 3), Ok(()));
    assert_eq!(t.query_size(), (3, 4));
    assert_eq!(t.setup_table(&cpu, 2), Ok(()));
    assert_eq!(t.query_size(), (3, 4));
    assert!(t.shared_frame(2).is_some() && t.shared_frame(3).is_none());
    assert_eq!(t.get_status_frames(0), Ok(()));
    assert_eq!(t.get_status_frames(1), Err(GrantError::General));
    let before = w.free_frames();
    let taken = w.set_free_frames(0);
    assert_eq!(t.setup_table(&cpu, 4), Err(GrantError::General));
    assert_eq!(t.set_version(&cpu, 2), Err(Error::NoMemory));
    assert_eq!(t.version(), 1);
    assert_eq!(t.query_size(), (3, 4));
    assert_eq!(taken.len(), before);
}

#[test]
fn acquire_frames_grows() {
    let w = World::new(
        1,
        GrantLimits {
            max_frames: 12,
            ..GrantLimits::default()
        },
    );
    let (t, cpu) = (w.table(1), w.cpu(1));
    let mut one = [Mfn(0)];
    assert_eq!(
        t.acquire_frames(&cpu, TableFrames::Status, 0, &mut one),
        Err(Error::Invalid)
    );
    assert_eq!(
        t.acquire_frames(&cpu, TableFrames::Shared, 0, &mut []),
        Err(Error::Invalid)
    );
    for first in [12, u32::MAX] {
        assert_eq!(
            t.acquire_frames(&cpu, TableFrames::Shared, first, &mut one),
            Err(Error::Invalid)
        );
    }
    assert_eq!(
        t.acquire_frames(&cpu, TableFrames::Shared, 2, &mut one),
        Ok(())
    );
    assert_eq!(t.query_size().0, 3);
    assert_eq!(Some(one[0]), t.shared_frame(2));
    t.set_version(&cpu, 2).unwrap();
    assert_eq!(
        t.acquire_frames(&cpu, TableFrames::Status, 0, &mut one),
        Ok(())
    );
    // One status frame serves 8 frames; the second would need 16.
    assert_eq!(
        t.acquire_frames(&cpu, TableFrames::Status, 1, &mut one),
        Err(Error::Invalid)
    );
    assert_eq!(t.resource_max_frames(TableFrames::Status), 2);
}

#[test]
fn version_changes() {
    let w = world();
    let (t, cpu) = (w.table(1), w.cpu(1));
    assert_eq!(t.set_version(&cpu, 0), Err(Error::Invalid));
    assert_eq!(t.set_version(&cpu, 3), Err(Error::Invalid));
    assert_eq!(t.set_version(&cpu, 1), Ok(()));
    // Reserved entries are translated, others are cleared.
    w.grant_v1(1, 1, GTF_PERMIT_ACCESS, 2, frame(1));
    w.grant_v1(1, 9, GTF_PERMIT_ACCESS, 2, frame(1));
    let op = map(&w, map_op(1, 1, 0x1000, HOST));
    assert_eq!(op.status, GNTST_OKAY);
    assert_eq!(t.set_version(&cpu, 2), Ok(()));
    assert_eq!(t.version(), 2);
    assert_eq!(w.status(1, 1), GTF_READING | GTF_WRITING);
    assert_eq!(
        map(&w, map_op(1, 9, 0x2000, HOST)).status,
        GNTST_GENERAL_ERROR
    );
    assert_eq!(unmap(&w, op.handle, 0x1000, 0), GNTST_OKAY);
    assert_eq!(w.status(1, 1), 0);
    let op = map(&w, map_op(1, 1, 0x1000, HOST | RO));
    assert_eq!(op.status, GNTST_OKAY);
    assert_eq!(t.set_version(&cpu, 1), Ok(()));
    assert_eq!(w.status(1, 1), GTF_READING);
    assert_eq!(unmap(&w, op.handle, 0x1000, 0), GNTST_OKAY);
    assert_eq!(w.status(1, 1), 0);
    // In use beyond the reserved ones.
    w.grant_v1(1, 9, GTF_PERMIT_ACCESS, 2, frame(1));
    let op = map(&w, map_op(1, 9, 0x1000, HOST));
    assert_eq!(t.set_version(&cpu, 2), Err(Error::Busy));
    assert_eq!(unmap(&w, op.handle, 0x1000, 0), GNTST_OKAY);
    assert_eq!(t.set_version(&cpu, 2), Ok(()));
    // What version 1 cannot say.
    for (flags, second) in [(GTF_PERMIT_ACCESS, 1 << 32), (GTF_TRANSITIVE, 0)] {
        w.grant_v2(1, 2, flags, 2, 0, second);
        assert_eq!(t.set_version(&cpu, 1), Err(Error::Range));
    }
    w.grant_v2(1, 2, GTF_INVALID, 2, 0, 0);
    assert_eq!(t.set_version(&cpu, 1), Ok(()));
    idle(&w);

    let only_v1 = World::new(
        1,
        GrantLimits {
            max_version: 1,
            ..GrantLimits::default()
        },
    );
    assert_eq!(
        only_v1.table(1).set_version(&only_v1.cpu(1), 2),
        Err(Error::NotImplemented)
    );
}

/// XSA-255: status frames that are mapped keep version 2.
#[test]
fn mapped_status_frames_keep_the_version() {
    let w = World::new(
        1,
        GrantLimits {
            max_frames: 64,
            ..GrantLimits::default()
        },
    );
    let (t, cpu) = (w.table(1), w.cpu(1));
    t.setup_table(&cpu, 20).unwrap();
    let free = w.free_frames();
    t.set_version(&cpu, 2).unwrap();
    assert_eq!(free - w.free_frames(), 3);
    let last = t.status_frame(2).unwrap();
    w.hold_table_frame(last, true);
    assert_eq!(t.set_version(&cpu, 1), Err(Error::Busy));
    assert_eq!(t.version(), 2);
    assert_eq!(t.get_status_frames(3), Ok(()));
    w.hold_table_frame(last, false);
    assert_eq!(t.set_version(&cpu, 1), Ok(()));
    assert_eq!(w.free_frames(), free);
    t.free_frames(&cpu);
    assert_eq!(w.free_frames(), free + 20);
}

#[test]
fn swap() {
    let w = world();
    let (t, cpu) = (w.table(1), w.cpu(1));
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    w.grant_v1(1, 9, GTF_PERMIT_ACCESS | GTF_READONLY, 2, frame(1));
    let (a, b) = (GrantRef(8), GrantRef(9));
    assert_eq!(
        t.swap_grant_ref(&cpu, a, GrantRef(512)),
        Err(GrantError::BadRef)
    );
    assert_eq!(
        t.swap_grant_ref(&cpu, GrantRef(512), a),
        Err(GrantError::BadRef)
    );
    assert_eq!(t.swap_grant_ref(&cpu, a, a), Ok(()));
    assert_eq!(t.swap_grant_ref(&cpu, a, b), Ok(()));
    assert_eq!(
        map(&w, map_op(1, 8, 0x1000, HOST)).status,
        GNTST_GENERAL_ERROR
    );
    let op = map(&w, map_op(1, 9, 0x1000, HOST));
    assert_eq!(op.dev_bus_addr, frame(0) << 12);
    assert_eq!(t.swap_grant_ref(&cpu, a, b), Err(GrantError::Again));
    assert_eq!(t.swap_grant_ref(&cpu, b, a), Err(GrantError::Again));
    unmap(&w, op.handle, 0x1000, 0);
    t.set_version(&cpu, 2).unwrap();
    w.grant_v2(1, 8, GTF_PERMIT_ACCESS, 2, 0, frame(0));
    assert_eq!(t.swap_grant_ref(&cpu, a, b), Ok(()));
    assert_eq!(map(&w, map_op(1, 9, 0x1000, HOST)).status, GNTST_OKAY);
}

#[test]
fn cache_flush() {
    let w = world();
    let (t, cpu) = (w.table(2), w.cpu(2));
    let flush = |a, offset, length, op| {
        let op = GnttabCacheFlush {
            a,
            offset,
            length,
            op,
        };
        t.cache_flush(&cpu, &op, &mut 0)
    };
    let clean = GNTTAB_CACHE_CLEAN;
    let own = first_frame(2) << 12;
    assert_eq!(flush(own, 4096, 0, clean), Err(Error::Invalid));
    assert_eq!(flush(own, 1, 4096, clean), Err(Error::Invalid));
    assert_eq!(flush(own, 0, 4096, 4), Err(Error::Invalid));
    assert_eq!(
        flush(own, 0, 4096, GNTTAB_CACHE_SOURCE_GREF),
        Err(Error::Invalid)
    );
    assert_eq!(flush(own, 0, 0, clean), Ok(true));
    assert_eq!(flush(own, 0, 4096, 0), Ok(true));
    assert_eq!(flush(own, 0, 4096, clean), Ok(true));
    assert_eq!(
        flush(own, 0, 4096, GNTTAB_CACHE_INVAL),
        Err(Error::NotSupported)
    );
    assert_eq!(flush(0, 0, 4096, clean), Err(Error::NotPermitted));
    assert_eq!(flush(u64::MAX, 0, 4096, clean), Err(Error::Invalid));
    let others = frame(0) << 12;
    assert_eq!(flush(others, 0, 4096, clean), Err(Error::Invalid));
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    let op = map(&w, map_op(1, 8, 0x1000, HOST));
    assert_eq!(flush(others, 0, 4096, clean | 2), Ok(true));
    // Far into a big table it takes several steps.
    w.table(1).setup_table(&w.cpu(1), 12).unwrap();
    w.grant_v1(1, 5000, GTF_PERMIT_ACCESS, 2, frame(1));
    map(&w, map_op(1, 5000, 0x2000, HOST));
    let op2 = GnttabCacheFlush {
        a: frame(1) << 12,
        offset: 0,
        length: 1,
        op: clean,
    };
    let mut progress = 0;
    assert_eq!(t.cache_flush(&cpu, &op2, &mut progress), Ok(false));
    assert_eq!(progress, 4096);
    assert_eq!(t.cache_flush(&cpu, &op2, &mut progress), Ok(true));
    unmap(&w, op.handle, 0x1000, 0);
    unmap(&w, 1, 0x2000, 0);
    idle(&w);
}

#[test]
fn dump_names_what_is_in_use() {
    let w = world();
    w.grant_v1(1, 8, GTF_PERMIT_ACCESS, 2, frame(0));
    let mut text = std::string::String::new();
    w.table(1).dump(&w.cpu(1), &mut text).unwrap();
    assert!(text.contains("no active"));
    map(&w, map_op(1, 8, 0x1000, HOST));
    text.clear();
    w.table(1).dump(&w.cpu(1), &mut text).unwrap();
    assert!(text.contains("[0x008]      2 0x8 0x00000001"), "{text}");
}

// Threads

/// Mapping, unmapping and copying the same grants on several CPUs, while the
/// granter changes them: counts come out even and nothing panics.
#[test]
fn uses_race() {
    let w = v2_world();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = [2u16, 2, 3]
            .into_iter()
            .enumerate()
            .map(|(worker, domain)| {
                let w = &w;
                scope.spawn(move || {
                    let cpu = Cpu { world: w, domain };
                    let table = w.table(domain);
                    for i in 0..1_500u64 {
                        let address = (worker as u64 + 1) * 0x10_0000 + (i % 16) * 0x1000;
                        let reference = 8 + (i % 4) as u32;
                        let flags = [HOST, HOST | RO, DEVICE | HOST, DEVICE][i as usize % 4];
                        let mut op = map_op(1, reference, address, flags);
                        table.map_grant_ref(&cpu, &mut op);
                        if op.status == GNTST_OKAY {
                            // The other worker of the domain may be faster.
                            let mut unmaps = [
                                unmap_op(op.handle, address, op.dev_bus_addr),
                                unmap_op(op.handle ^ 1, address, op.dev_bus_addr),
                            ];
                            table.unmap_grant_refs(&cpu, &mut unmaps);
                        }
                        let mut op = copy_op(
                            (1 + (i % 3) as u16, u64::from(reference), 0),
                            (SELF, first_frame(domain), 0),
                            16,
                            GNTCOPY_SOURCE_GREF,
                        );
                        let _ = CopySession::new(&cpu, &table).copy(&mut op);
                    }
                })
            })
            .collect();
        let (w, stop) = (&w, &stop);
        scope.spawn(move || {
            let mut i = 0u32;
            while !stop.load(Ordering::SeqCst) {
                i = i.wrapping_add(1);
                let flags = [
                    GTF_PERMIT_ACCESS,
                    GTF_PERMIT_ACCESS | GTF_READONLY,
                    GTF_TRANSITIVE,
                    GTF_INVALID,
                    GTF_PERMIT_ACCESS | GTF_SUB_PAGE,
                ][i as usize % 5];
                let to = 2 + (i / 5 % 2) as u16;
                for domain in 1..=3u16 {
                    if w.table(domain).version() != 2 {
                        continue;
                    }
                    let (upper, second) = if flags == GTF_TRANSITIVE {
                        (u32::from(1 + (domain + 1) % 3), u64::from(8 + i % 4))
                    } else {
                        (100 << 16, first_frame(domain) + u64::from(i % 3))
                    };
                    w.grant_v2(domain, 8 + i % 4, flags, to, upper, second);
                }
                let _ = w
                    .table(1)
                    .swap_grant_ref(&w.cpu(1), GrantRef(8), GrantRef(9));
                let _ = w.table(1).set_version(&w.cpu(1), 1 + i / 16 % 2);
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        stop.store(true, Ordering::SeqCst);
    });
    for domain in [2, 3] {
        w.table(domain)
            .release_mappings(&w.cpu(domain), &Never)
            .unwrap();
    }
    for (domain, address) in w.entries().into_keys() {
        w.zap(domain, address);
    }
    idle(&w);
}
