//! Random operations of three domains beside a plain model, which says what
//! each must answer, and what is pinned and referenced after it.
#![cfg_attr(not(test), allow(dead_code))]

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::world::{Cpu, NOT_MAPPABLE, World, copy_op, first_frame, map_op, unmap_op};
use super::*;
use crate::fuzz::Choices;
use crate::machine::Never;

/// The entries that are used: two reserved ones and four others.
const REFS: [u32; 6] = [0, 1, 8, 9, 10, 11];
const DOMAINS: std::ops::RangeInclusive<u16> = 1..=3;
const SELF: u16 = 0x7ff0;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Grant {
    flags: u16,
    to: u16,
    frame: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Grant {
        d: u16,
        r: usize,
        grant: Grant,
    },
    Map {
        d: u16,
        granter: u16,
        r: usize,
        flags: u32,
        address: u64,
    },
    Unmap {
        which: usize,
        host: bool,
        device: bool,
    },
    Zap {
        d: u16,
        address: u64,
    },
    Copy {
        d: u16,
        granter: u16,
        r: usize,
        own: u64,
        write: bool,
    },
    /// One grant, or several together.
    Hold {
        d: u16,
        granter: u16,
        rs: Vec<usize>,
        readonly: bool,
    },
    DropHold {
        which: usize,
    },
    Version {
        d: u16,
        version: u32,
    },
    Swap {
        d: u16,
        a: usize,
        b: usize,
    },
    SetTable {
        d: u16,
        frame: u64,
        is_table: bool,
    },
}

impl Op {
    /// The next operation of a fuzzer's.
    fn read(from: &mut Choices<'_>) -> Option<Self> {
        let kind = from.below(18)?;
        let d = 1 + from.below(3)?;
        let x = u64::from(from.byte()?) | u64::from(from.byte()?) << 8;
        let granter = 1 + (x % 3) as u16;
        let r = (x / 3 % 6) as usize;
        let rest = x / 18;
        let address = match rest % 8 {
            0..5 => (rest % 4 + 1) * 0x1000,
            5 => NOT_MAPPABLE,
            _ => 0x1000,
        };
        let bit = rest & 1 != 0;
        Some(match kind {
            0..3 => {
                let flags = from.one_of(&[
                    GTF_PERMIT_ACCESS,
                    GTF_PERMIT_ACCESS,
                    GTF_PERMIT_ACCESS | GTF_READONLY,
                    GTF_INVALID,
                    GTF_ACCEPT_TRANSFER,
                ])?;
                let owner = if rest % 16 == 0 { granter } else { d };
                let frame = first_frame(owner) + rest / 16 % 3;
                Self::Grant {
                    d,
                    r,
                    grant: Grant {
                        flags,
                        to: granter,
                        frame,
                    },
                }
            }
            3..8 => Self::Map {
                d,
                granter,
                r,
                flags: u32::from(from.below(8)?),
                address,
            },
            8..11 => Self::Unmap {
                which: x as usize,
                host: bit,
                device: rest & 2 != 0,
            },
            11 => Self::Zap { d, address },
            12 => Self::Copy {
                d,
                granter,
                r,
                own: rest / 2 % 3,
                write: bit,
            },
            13 => {
                let others = [rest / 8 % 6, rest / 48 % 6].map(|r| r as usize);
                let mut rs = Vec::from([r]);
                rs.extend(others.iter().take((rest / 2 % 3) as usize));
                Self::Hold {
                    d,
                    granter,
                    rs,
                    readonly: bit,
                }
            }
            14 => Self::DropHold { which: x as usize },
            15 => Self::Version {
                d,
                version: (rest % 4) as u32,
            },
            16 => Self::Swap {
                d,
                a: r,
                b: (rest % 6) as usize,
            },
            _ => Self::SetTable {
                d,
                frame: rest / 2 % 3,
                is_table: bit,
            },
        })
    }
}

/// A mapping, or a use by a backend.
#[derive(Clone, Copy, Debug)]
struct Live {
    d: u16,
    granter: u16,
    reference: u32,
    frame: u64,
    /// What is left of it.
    flags: u32,
    handle: u32,
    address: u64,
}

impl Live {
    fn is_readonly(&self) -> bool {
        self.flags & GNTMAP_READONLY != 0
    }
}

enum Guard<'w> {
    One(BackendGrant<'w, Cpu<'w>>),
    Many(BackendGrants<'w, Cpu<'w>>),
}

impl Guard<'_> {
    fn frames(&self) -> Vec<u64> {
        match self {
            Self::One(one) => Vec::from([one.mfn().0]),
            Self::Many(many) => many.frames().iter().map(|frame| frame.mfn().0).collect(),
        }
    }
}

struct Held<'w> {
    uses: Vec<Live>,
    /// `None` while it is not known whether there is one.
    guard: Option<Guard<'w>>,
}

#[derive(Default)]
struct Model<'w> {
    grants: BTreeMap<(u16, u32), Grant>,
    versions: BTreeMap<u16, u32>,
    maps: Vec<Live>,
    held: Vec<Held<'w>>,
    /// Frame and whether writable, of each page-table entry.
    entries: BTreeMap<(u16, u64), (u64, bool)>,
    tables: BTreeMap<u64, bool>,
    /// Entries in use whose status was lost with a change of version, until they are not in
    /// use any more: they were no grants then, which is their owner's doing.
    forgotten: BTreeSet<(u16, u32)>,
}

impl Model<'_> {
    fn uses(&self, granter: u16, reference: u32) -> impl Iterator<Item = &Live> {
        self.maps
            .iter()
            .chain(self.held.iter().flat_map(|held| &held.uses))
            .filter(move |u| u.granter == granter && u.reference == reference)
    }

    fn grant(&self, granter: u16, reference: u32) -> Grant {
        self.grants
            .get(&(granter, reference))
            .copied()
            .unwrap_or(Grant {
                flags: 0,
                to: 0,
                frame: 0,
            })
    }

    fn owner(frame: u64) -> u16 {
        (frame / 8) as u16
    }

    /// The frame that `d` may use by a grant, or the error.
    fn permits(
        &self,
        d: u16,
        granter: u16,
        reference: u32,
        readonly: bool,
    ) -> core::result::Result<u64, GrantError> {
        let grant = self.grant(granter, reference);
        let mut uses = self.uses(granter, reference);
        let first = uses.next();
        if let Some(first) = first {
            // What was granted at the first use counts.
            if first.d != d {
                return Err(GrantError::General);
            }
            let writable = !first.is_readonly() || uses.any(|u| !u.is_readonly());
            if !readonly && !writable && grant.flags & GTF_READONLY != 0 {
                return Err(GrantError::General);
            }
            return Ok(first.frame);
        }
        if grant.flags & GTF_TYPE_MASK != GTF_PERMIT_ACCESS
            || grant.to != d
            || (!readonly && grant.flags & GTF_READONLY != 0)
        {
            return Err(GrantError::General);
        }
        if Self::owner(grant.frame) != granter {
            return Err(GrantError::BadPage);
        }
        Ok(grant.frame)
    }

    /// The same for a copy or a backend. Their first use for writing looks at the
    /// entry again: the granter may have put another frame there meanwhile.
    fn permits_briefly(
        &self,
        d: u16,
        granter: u16,
        reference: u32,
        readonly: bool,
    ) -> core::result::Result<u64, GrantError> {
        let mut uses = self.uses(granter, reference).peekable();
        let looks_again = !readonly && uses.peek().is_some() && uses.all(Live::is_readonly);
        let now = self.grant(granter, reference).frame;
        self.permits(d, granter, reference, readonly)
            .and_then(
                |frame| match (looks_again && now != frame, Self::owner(now)) {
                    (false, _) => Ok(frame),
                    (true, owner) if owner == granter => Err(GrantError::General),
                    (true, _) => Err(GrantError::BadPage),
                },
            )
    }

    fn is_table(&self, frame: u64) -> bool {
        self.tables.get(&frame).copied().unwrap_or(false)
    }
}

fn write_grant(world: &World, version: u32, d: u16, reference: u32, grant: Grant) {
    // The guest keeps the status bits of version 1 as they are.
    let flags = grant.flags;
    if version == 1 {
        let status = world.status(d, reference);
        world.grant_v1(d, reference, flags | status, grant.to, grant.frame);
    } else {
        world.grant_v2(d, reference, flags, grant.to, 0, grant.frame);
    }
}

fn step<'w>(world: &'w World, cpus: &'w [Cpu<'w>], model: &mut Model<'w>, op: &Op) {
    let version = |model: &Model<'_>, d| model.versions.get(&d).copied().unwrap_or(1);
    match *op {
        Op::Grant { d, r, grant } => {
            let reference = REFS[r];
            model.grants.insert((d, reference), grant);
            write_grant(world, version(model, d), d, reference, grant);
        }
        Op::Map {
            d,
            granter,
            r,
            flags,
            address,
        } => {
            let reference = REFS[r];
            let mut op = map_op(granter, reference, address, flags);
            world.table(d).map_grant_ref(&world.cpu(d), &mut op);
            let readonly = flags & GNTMAP_READONLY != 0;
            let expected = if flags & (GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP) == 0 {
                Err(GrantError::BadRef)
            } else {
                model
                    .permits(d, granter, reference, readonly)
                    .and_then(|frame| {
                        let no_entry = flags & GNTMAP_HOST_MAP != 0 && address == NOT_MAPPABLE;
                        if (!readonly && model.is_table(frame)) || no_entry {
                            Err(GrantError::General)
                        } else {
                            Ok(frame)
                        }
                    })
            };
            assert_eq!(op.status, status(expected.map(|_| ())), "{op:?}");
            if let Ok(frame) = expected {
                assert_eq!(op.dev_bus_addr, frame << 12);
                if flags & GNTMAP_HOST_MAP != 0 {
                    model.entries.insert((d, address), (frame, !readonly));
                }
                model.maps.push(Live {
                    d,
                    granter,
                    reference,
                    frame,
                    flags,
                    handle: op.handle,
                    address,
                });
            }
        }
        Op::Unmap {
            which,
            host,
            device,
        } => {
            if model.maps.is_empty() {
                return;
            }
            let index = which % model.maps.len();
            let live = &mut model.maps[index];
            let address = if host { live.address } else { 0 };
            let bus = if device { live.frame << 12 } else { 0 };
            let mut op = [unmap_op(live.handle, address, bus)];
            world
                .table(live.d)
                .unmap_grant_refs(&world.cpu(live.d), &mut op);
            let entry = (live.frame, !live.is_readonly());
            let takes_host = host && live.flags & GNTMAP_HOST_MAP != 0;
            if takes_host && model.entries.get(&(live.d, live.address)) != Some(&entry) {
                assert_eq!(op[0].status, GNTST_GENERAL_ERROR);
                return;
            }
            assert_eq!(op[0].status, GNTST_OKAY);
            if takes_host {
                model.entries.remove(&(live.d, live.address));
                live.flags &= !GNTMAP_HOST_MAP;
            }
            if device {
                live.flags &= !GNTMAP_DEVICE_MAP;
            }
            if live.flags & (GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP) == 0 {
                model.maps.remove(index);
            }
        }
        Op::Zap { d, address } => {
            world.zap(d, address);
            model.entries.remove(&(d, address));
        }
        Op::Copy {
            d,
            granter,
            r,
            own,
            write,
        } => {
            let reference = REFS[r];
            let other = (granter, u64::from(reference), 0);
            let mine = (SELF, first_frame(d) + own, 0);
            let mut op = if write {
                copy_op(mine, other, 64, GNTCOPY_DEST_GREF)
            } else {
                copy_op(other, mine, 64, GNTCOPY_SOURCE_GREF)
            };
            CopySession::new(&world.cpu(d), &world.table(d))
                .copy(&mut op)
                .unwrap();
            let expected = model
                .permits_briefly(d, granter, reference, !write)
                .and_then(|frame| {
                    let to = if write { frame } else { first_frame(d) + own };
                    if model.is_table(to) {
                        Err(GrantError::General)
                    } else {
                        Ok(())
                    }
                });
            assert_eq!(op.status, status(expected));
        }
        Op::Hold {
            d,
            granter,
            ref rs,
            readonly,
        } => {
            let cpu = &cpus[d as usize - 1];
            let references: Vec<_> = rs.iter().map(|&r| GrantRef(REFS[r])).collect();
            let table = world.table(granter);
            let result = if let &[one] = references.as_slice() {
                table
                    .map_for_backend(cpu, DomainId(d), one, readonly)
                    .map(Guard::One)
                    .map_err(|error| (one, error))
            } else {
                let mut many = BackendGrants::new(cpu, table, DomainId(d));
                many.map(references.iter().copied(), readonly)
                    .map(|()| Guard::Many(many))
            };
            // One after the other is looked at with those before in use; then, for writing,
            // the types of all.
            model.held.push(Held {
                uses: Vec::new(),
                guard: None,
            });
            let mut expected = Ok(());
            for &GrantRef(reference) in &references {
                match model.permits_briefly(d, granter, reference, readonly) {
                    Ok(frame) => {
                        let use_ = Live {
                            d,
                            granter,
                            reference,
                            frame,
                            flags: if readonly { GNTMAP_READONLY } else { 0 },
                            handle: 0,
                            address: 0,
                        };
                        model.held.last_mut().unwrap().uses.push(use_);
                    }
                    Err(error) => {
                        expected = Err((GrantRef(reference), error));
                        break;
                    }
                }
            }
            let mut held = model.held.pop().unwrap();
            if let Some(table) = held.uses.iter().find(|u| model.is_table(u.frame))
                && expected.is_ok()
                && !readonly
            {
                expected = Err((GrantRef(table.reference), GrantError::General));
            }
            match result {
                Ok(guard) => {
                    assert_eq!(expected, Ok(()));
                    let frames: Vec<_> = held.uses.iter().map(|u| u.frame).collect();
                    assert_eq!(guard.frames(), frames);
                    held.guard = Some(guard);
                    model.held.push(held);
                }
                Err(error) => assert_eq!(expected, Err(error)),
            }
        }
        Op::DropHold { which } => {
            if !model.held.is_empty() {
                let index = which % model.held.len();
                let held = model.held.remove(index);
                drop(held.guard);
            }
        }
        Op::Version { d, version: new } => {
            let old = version(model, d);
            let result = world.table(d).set_version(&world.cpu(d), new);
            let in_use = REFS
                .iter()
                .any(|&r| r >= 8 && model.uses(d, r).next().is_some());
            let expected = match new {
                1 | 2 if new == old => Ok(()),
                1 | 2 if in_use => Err(Error::Busy),
                1 | 2 => Ok(()),
                _ => Err(Error::Invalid),
            };
            assert_eq!(result, expected);
            if result.is_ok() && new != old {
                model.versions.insert(d, new);
                for reference in REFS {
                    let kind = model.grant(d, reference).flags & GTF_TYPE_MASK;
                    // Back to version 1 only grants survive.
                    if reference >= 8 || (new == 1 && kind != GTF_PERMIT_ACCESS) {
                        model.forgotten.insert((d, reference));
                        model.grants.remove(&(d, reference));
                    }
                }
            }
        }
        Op::Swap { d, a, b } => {
            let (a, b) = (REFS[a], REFS[b]);
            let result = world
                .table(d)
                .swap_grant_ref(&world.cpu(d), GrantRef(a), GrantRef(b));
            let in_use = model.uses(d, a).chain(model.uses(d, b)).next().is_some();
            if a != b && in_use {
                assert_eq!(result, Err(GrantError::Again));
                return;
            }
            assert_eq!(result, Ok(()));
            let (grant_a, grant_b) = (model.grant(d, a), model.grant(d, b));
            model.grants.insert((d, a), grant_b);
            model.grants.insert((d, b), grant_a);
        }
        Op::SetTable { d, frame, is_table } => {
            let frame = first_frame(d) + frame;
            // A frame changes to a page table only while nobody has it writable.
            if world.page(frame).types == 0 {
                world.set_is_table(frame, is_table);
                model.tables.insert(frame, is_table);
            }
        }
    }
}

/// Counts everything anew from the model.
fn check(world: &World, model: &Model<'_>) {
    assert_eq!(world.entries(), model.entries);
    for d in DOMAINS {
        for reference in REFS {
            let mut pins = 0;
            let mut writable = false;
            let mut any = false;
            for u in model.uses(d, reference) {
                any = true;
                writable |= !u.is_readonly();
                let readonly_shift = if u.is_readonly() { 8 } else { 0 };
                if u.flags & GNTMAP_DEVICE_MAP != 0 {
                    pins += 1 << (16 + readonly_shift);
                }
                if u.flags & GNTMAP_HOST_MAP != 0 || u.flags & !GNTMAP_READONLY == 0 {
                    pins += 1u32 << readonly_shift;
                }
            }
            assert_eq!(world.pins(d, reference), pins, "{d} {reference}");
            let mut bits = 0;
            if any {
                bits |= GTF_READING;
            }
            if writable {
                bits |= GTF_WRITING;
            }
            // What an entry that is not a grant has there is not ours.
            let kind = model.grant(d, reference).flags & GTF_TYPE_MASK;
            let known = any && !model.forgotten.contains(&(d, reference));
            if known || (!any && kind == GTF_PERMIT_ACCESS) {
                assert_eq!(world.status(d, reference), bits, "{d} {reference}");
            }
        }
    }
    let mut pages: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    let mut add = |frame, writable| {
        let (refs, types) = pages.entry(frame).or_default();
        *refs += 1;
        *types += u32::from(writable);
    };
    for &(frame, writable) in model.entries.values() {
        add(frame, writable);
    }
    for live in &model.maps {
        if live.flags & GNTMAP_DEVICE_MAP != 0 {
            add(live.frame, !live.is_readonly());
        }
    }
    for u in model.held.iter().flat_map(|held| &held.uses) {
        add(u.frame, !u.is_readonly());
    }
    for d in DOMAINS {
        for frame in first_frame(d)..first_frame(d) + 8 {
            let page = world.page(frame);
            assert_eq!(
                (page.refs, page.types),
                pages.get(&frame).copied().unwrap_or_default(),
                "frame {frame}"
            );
            assert!(!page.is_table || page.types == 0);
        }
    }
}

fn play(ops: &[Op]) {
    let world = World::new(3, GrantLimits::default());
    let cpus: Vec<_> = DOMAINS.map(|d| world.cpu(d)).collect();
    let mut model = Model::default();
    for op in ops {
        step(&world, &cpus, &mut model, op);
        let forgotten = core::mem::take(&mut model.forgotten);
        let in_use = |&(d, reference): &(u16, u32)| model.uses(d, reference).next().is_some();
        model.forgotten = forgotten.into_iter().filter(in_use).collect();
        check(&world, &model);
    }
    // All die: nothing is left.
    model.held.clear();
    for d in DOMAINS {
        world.table(d).set_dying();
        world
            .table(d)
            .release_mappings(&world.cpu(d), &Never)
            .unwrap();
    }
    for (d, address) in world.entries().into_keys() {
        world.zap(d, address);
    }
    world.assert_idle();
    assert_eq!(world.references(), (0, 0));
}

/// Runs what a fuzzer chose; panics where the model says something else.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    // Fewer than there may be uses of one entry.
    let ops: Vec<_> = core::iter::from_fn(|| Op::read(&mut choices))
        .take(120)
        .collect();
    play(&ops);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn op() -> impl Strategy<Value = Op> {
        let d = || DOMAINS;
        let r = || 0..REFS.len();
        let address = || {
            prop_oneof![
                8 => (1..5u64).prop_map(|a| a * 0x1000),
                1 => Just(NOT_MAPPABLE)
            ]
        };
        let flags = prop_oneof![
            6 => Just(GTF_PERMIT_ACCESS),
            2 => Just(GTF_PERMIT_ACCESS | GTF_READONLY),
            1 => Just(GTF_INVALID),
            1 => Just(GTF_ACCEPT_TRANSFER),
        ];
        // Mostly the domain's own frames.
        let grant = (
            flags,
            d(),
            prop_oneof![9 => Just(None), 1 => d().prop_map(Some)],
            0..3u64,
        );
        prop_oneof![
            6 => (d(), r(), grant).prop_map(|(d, r, (flags, to, owner, frame))| Op::Grant {
                d,
                r,
                grant: Grant { flags, to, frame: first_frame(owner.unwrap_or(d)) + frame },
            }),
            12 => (d(), d(), r(), 0..8u32, address())
                .prop_map(|(d, granter, r, flags, address)| Op::Map { d, granter, r, flags, address }),
            10 => (any::<usize>(), any::<bool>(), any::<bool>())
                .prop_map(|(which, host, device)| Op::Unmap { which, host, device }),
            2 => (d(), address()).prop_map(|(d, address)| Op::Zap { d, address }),
            6 => (d(), d(), r(), 0..3u64, any::<bool>())
                .prop_map(|(d, granter, r, own, write)| Op::Copy { d, granter, r, own, write }),
            3 => (d(), d(), prop::collection::vec(r(), 1..5), any::<bool>())
                .prop_map(|(d, granter, rs, readonly)| Op::Hold { d, granter, rs, readonly }),
            3 => any::<usize>().prop_map(|which| Op::DropHold { which }),
            1 => (d(), 0..4u32).prop_map(|(d, version)| Op::Version { d, version }),
            2 => (d(), r(), r()).prop_map(|(d, a, b)| Op::Swap { d, a, b }),
            2 => (d(), 0..3u64, any::<bool>())
                .prop_map(|(d, frame, is_table)| Op::SetTable { d, frame, is_table }),
        ]
    }

    /// Found by fuzzing: the model did not know of it.
    #[test]
    fn an_entry_that_is_no_grant_loses_its_status_on_the_way_back_to_version_1() {
        let grant = |flags| Op::Grant {
            d: 1,
            r: 1,
            grant: Grant {
                flags,
                to: 1,
                frame: 8,
            },
        };
        let version = |version| Op::Version { d: 1, version };
        play(&[
            grant(GTF_PERMIT_ACCESS),
            Op::Map {
                d: 1,
                granter: 1,
                r: 1,
                flags: 7,
                address: 0x1000,
            },
            version(2),
            grant(GTF_ACCEPT_TRANSFER),
            version(1),
            version(2),
        ]);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 500,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn operations_match_the_model(ops in prop::collection::vec(op(), 1..100)) {
            play(&ops);
        }
    }
}
