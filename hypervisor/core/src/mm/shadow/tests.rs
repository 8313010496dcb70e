//! A guest's memory accesses by a model of the CPU that walks the shadows, with TLBs and
//! caches of tables, beside the guest's own updates of its tables.

use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

use proptest::prelude::*;

use super::{Access, ShadowFault, Walk};
use crate::addr::{GuestVirtual, Mfn, Pfn};
use crate::ids::CpuSet;
use crate::machine::{Memory, Never, Tlb};
use crate::mm::model::{NullMachine, World};
use crate::mm::{DirtyPages, DomainMemory, MmuCaller, PageOwner, Pte};
use xen_abi::xen::{MMUEXT_NEW_USER_BASEPTR, MMUEXT_PIN_L1_TABLE, MMUEXT_UNPIN_TABLE, MmuextOp};

/// The guest that is looked at, an unprivileged one.
const GUEST: usize = 1;
/// Frames for shadows: so few that they are dropped often.
const FRAMES: usize = 7;

/// How many addresses are accessed: pages 0 to 7 of four pieces of 2 MiB.
const ADDRESSES: u64 = 32;

/// A CPU that runs the guest's first virtual CPU, or the second if that is set up.
#[derive(Default)]
struct Cpu {
    vcpu: usize,
    /// The guest's root, and what CR3 points to.
    root: Option<(Mfn, Mfn)>,
    tlb: BTreeMap<u64, Pte>,
    /// Level-1 tables by the 2 MiB that they map.
    tables: BTreeMap<u64, Mfn>,
    /// The flush clock when it flushed last.
    flushed: u64,
}

struct Machine {
    world: World,
    memory: Arc<DomainMemory>,
    cpus: [Cpu; 2],
    /// All leaves, under each root and at each address, that there were since the last flush.
    history: BTreeSet<(Mfn, u64, u64)>,
    /// Nothing was updated since.
    settled: bool,
    /// What CPUs wrote since the last round.
    written: BTreeSet<u64>,
}

/// What is checked of a leaf of the history: frame and rights.
fn translation(walk: &Walk) -> u64 {
    let all = walk.iter().fold(u64::MAX, |all, step| all & step.2.0);
    Pte::new(walk[3].2.mfn(), all & (Pte::PRESENT | Pte::RW)).0
}

impl Machine {
    fn new(frames: usize) -> Self {
        let mut world = World::new();
        let memory = world.guest(GUEST).1;
        world.mm.start_small_log(&memory, frames).unwrap();
        for vcpu in world.vcpus(GUEST) {
            world.mm.acquire_roots(&memory, vcpu).unwrap();
        }
        let mut machine = Self {
            world,
            memory,
            cpus: Default::default(),
            history: BTreeSet::new(),
            settled: true,
            written: BTreeSet::new(),
        };
        machine.cpus[1].vcpu = 1;
        machine.more_tables();
        machine.flush();
        dirty(&machine, true);
        machine
    }

    /// Gives the guest three more level-1 tables, in the pages 8 to 10, and in page 11 a root
    /// for user mode: more tables than there are frames for shadows.
    fn more_tables(&mut self) {
        const FLAGS: u64 = Pte::PRESENT | Pte::RW | Pte::USER;
        let mut pages = self.own_frames();
        pages.sort_by_key(|&mfn| self.pfn(mfn));
        let (mm, memory, tables) = self.world.guest(GUEST);
        let store = |page: usize, slot: usize, to: usize| {
            let frame = mm.host.frame(pages[page]).unwrap();
            frame.store(slot, Pte::new(pages[to], FLAGS).0);
        };
        for table in 8..11 {
            (0..4).for_each(|slot| store(table, slot, 4 + slot));
            (4..8).for_each(|slot| store(table, slot, 12 + slot % 2));
        }
        store(11, 0, 1);
        let mut caller = MmuCaller {
            domain: &memory,
            tables,
            preempt: &Never,
        };
        let owner = PageOwner::of(&memory);
        for slot in 1..4 {
            let entry = Pte::new(pages[7 + slot], FLAGS).0;
            let at = pages[2].0 << 12 | (slot as u64) << 3;
            mm.mmu_update(&mut caller, &memory, owner, at, entry)
                .unwrap();
        }
        let op = MmuextOp {
            cmd: MMUEXT_NEW_USER_BASEPTR,
            _pad0: [0; 4],
            arg1: pages[11].0,
            arg2: 0,
        };
        mm.mmuext_op(&mut caller, &mut NullMachine, owner, op)
            .unwrap();
    }

    fn addresses() -> impl Iterator<Item = u64> {
        (0..ADDRESSES).map(|n| (n % 4) << 21 | (n / 4) << 12)
    }

    fn walk(&self, root: Mfn, address: u64) -> Option<Walk> {
        let tables = self.world.mm.lock(&self.memory);
        tables.walk(root, GuestVirtual(address))
    }

    fn roots(&self) -> BTreeSet<Mfn> {
        let vcpus = self.world.vcpus(GUEST).iter();
        vcpus
            .flat_map(|v| [v.kernel(), v.user()])
            .flatten()
            .collect()
    }

    fn remember(&mut self) {
        for root in self.roots() {
            for address in Self::addresses() {
                if let Some(walk) = self.walk(root, address) {
                    self.history.insert((root, address, translation(&walk)));
                }
            }
        }
    }

    /// The guest flushes all its CPUs.
    fn flush(&mut self) {
        self.world.mm.host.flush(&CpuSet::ALL);
        self.history.clear();
        self.settled = true;
        self.remember();
    }

    /// CR3 and the TLB of a CPU as they are by now.
    fn catch_up(&mut self, cpu: usize, user: bool) {
        let vcpus = self.world.vcpus(GUEST);
        let own = &vcpus[self.cpus[cpu].vcpu];
        let vcpu = if own.kernel().is_some() {
            own
        } else {
            &vcpus[0]
        };
        let hardware = self.world.mm.hardware_roots(&self.memory, vcpu);
        let pick = |kernel, other| if user { other } else { kernel };
        let root = pick(vcpu.kernel(), vcpu.user()).zip(pick(hardware.kernel, hardware.user));
        let flushed = self.world.last_flush();
        let cpu = &mut self.cpus[cpu];
        if cpu.root != root || cpu.flushed != flushed {
            cpu.tlb.clear();
            cpu.tables.clear();
            cpu.root = root;
            cpu.flushed = flushed;
        }
    }

    /// The walk of the hardware; through what it remembers of tables, if it may.
    fn translate(&mut self, cpu: usize, address: u64, cached: bool) -> Option<Pte> {
        let page = address >> 12;
        let cpu = &mut self.cpus[cpu];
        if let Some(&leaf) = cpu.tlb.get(&page) {
            return Some(leaf);
        }
        let load = |mfn: Mfn, level: u32| {
            let slot = GuestVirtual(address).table_index(level);
            let entry = Pte(self.world.mm.host.frame(mfn)?.load(slot));
            entry.is_present().then_some(entry)
        };
        let mut rights = u64::MAX;
        let table = match cpu.tables.get(&(page >> 9)) {
            // All tables of the test lead on with all rights, or the leaf says it all.
            Some(&table) if cached => table,
            _ => {
                let mut table = cpu.root?.1;
                for level in [4, 3, 2] {
                    let entry = load(table, level)?;
                    rights &= entry.0;
                    table = entry.mfn();
                }
                if rights & Pte::RW != 0 {
                    cpu.tables.insert(page >> 9, table);
                }
                table
            }
        };
        let leaf = load(table, 1)?;
        let leaf = Pte::new(leaf.mfn(), leaf.flags() & (rights | !Pte::RW));
        cpu.tlb.insert(page, leaf);
        Some(leaf)
    }

    fn access(
        &mut self,
        cpu: usize,
        user: bool,
        address: u64,
        write: bool,
        cached: bool,
    ) -> Result<(), String> {
        for _ in 0..4 {
            self.catch_up(cpu, user);
            let Some((root, _)) = self.cpus[cpu].root else {
                return Ok(());
            };
            let leaf = self.translate(cpu, address, cached);
            let allowed = leaf.filter(|leaf| leaf.is_writable() || !write);
            if let Some(leaf) = allowed {
                return self.check(root, address, write, leaf);
            }
            // The CPU forgets what faulted.
            self.cpus[cpu].tlb.remove(&(address >> 12));
            self.cpus[cpu].tables.remove(&(address >> 21));
            let access = Access {
                write,
                fetch: false,
                user: true,
            };
            let at = GuestVirtual(address);
            match self
                .world
                .mm
                .shadow_fault(&self.memory, root, at, access, || ())
            {
                ShadowFault::Fixed => {}
                ShadowFault::Guest { present } => {
                    let walk = self.walk(root, address);
                    let theirs = walk.map_or(0, |walk| translation(&walk));
                    if present != (theirs & Pte::PRESENT != 0) {
                        return Err(format!("{address:#x}: present {present}"));
                    }
                    if present && (!write || theirs & Pte::RW != 0) {
                        return Err(format!("{address:#x}: refused a right that there is"));
                    }
                    return Ok(());
                }
            }
        }
        Err(format!("{address:#x}: faults for ever"))
    }

    /// An access went through.
    fn check(&mut self, root: Mfn, address: u64, write: bool, leaf: Pte) -> Result<(), String> {
        let rights = Pte::PRESENT | if write { Pte::RW } else { 0 };
        let known = [0, Pte::RW].iter().any(|more| {
            let leaf = Pte::new(leaf.mfn(), rights | more);
            self.history.contains(&(root, address, leaf.0))
        });
        if !known {
            return Err(format!(
                "{address:#x} is {leaf:?}, which the guest never said"
            ));
        }
        if self.settled {
            let walk = self
                .walk(root, address)
                .ok_or("no translation of the guest's")?;
            let noted = Pte::ACCESSED | if write { Pte::DIRTY } else { 0 };
            if walk[3].2.0 & noted != noted || walk.iter().any(|s| !s.2.has(Pte::ACCESSED)) {
                return Err(format!("{address:#x}: A or D is missing"));
            }
        }
        if write && let Some(pfn) = self.pfn(leaf.mfn()) {
            self.written.insert(pfn.0);
        }
        Ok(())
    }

    /// The page that a frame is, if it is logged.
    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        let info = self.world.mm.frames().ram(mfn)?;
        let own = info.count_word().owner() == Some(self.memory.id());
        self.world.mm.m2p().get(mfn).filter(|_| own)
    }

    fn round(&mut self) -> Result<(), String> {
        let mut pages = DirtyPages::default();
        let mm = &self.world.mm;
        mm.clean_log(&self.memory, &mut |_| (), &mut pages)
            .map_err(|error| format!("{error:?}"))?;
        for pfn in core::mem::take(&mut self.written) {
            if pages.words[pfn as usize / 64] >> (pfn % 64) & 1 == 0 {
                return Err(format!("page {pfn} was written, and is not in the log"));
            }
        }
        Ok(())
    }

    fn update(&mut self, operation: [u8; 8]) -> Result<(), String> {
        let frames: Vec<Mfn> = self.own_frames();
        self.world.step(operation)?;
        self.settled = false;
        // What left the domain is not its page any more.
        let left = self.own_frames();
        for mfn in frames.into_iter().filter(|mfn| !left.contains(mfn)) {
            if let Some(pfn) = self.pfn(mfn) {
                self.written.remove(&pfn.0);
            }
        }
        self.remember();
        Ok(())
    }

    fn own_frames(&self) -> Vec<Mfn> {
        let mut frames = Vec::new();
        self.memory
            .for_each_page(self.world.mm.frames(), |mfn| frames.push(mfn));
        frames
    }
}

#[derive(Clone, Debug)]
enum Step {
    Access(usize, bool, u8, bool, bool),
    /// An operation of the model of guests, on this guest.
    Update([u8; 8]),
    Flush,
    Round,
}

fn steps() -> impl Strategy<Value = Step> {
    // Updates of entries, base pointers, pins, emulated writes, grants, whole tables.
    let kinds = prop::sample::select(
        [
            4u8, 4, 5, 6, 7, 7, 7, 8, 9, 10, 11, 12, 13, 13, 14, 15, 16, 20, 21, 22, 23,
        ]
        .as_slice(),
    );
    let who = prop::sample::select([1u8, 1, 1, 0x81, 0x09, 0x11].as_slice());
    let update = (kinds, who, any::<[u8; 6]>()).prop_map(|(kind, who, rest)| {
        let [a, b, c, d, mut e, stop] = rest;
        if kind <= 6 && e % 7 == 5 {
            // Not `MMU_MACHPHYS_UPDATE`, which may name a page that the log has no room for.
            e = 0;
        }
        Step::Update([kind, who, a, b, c, d, e, stop])
    });
    prop_oneof![
        12 => (0..2usize, any::<bool>(), prop_oneof![16..32u8, 0..32u8], any::<bool>(), any::<bool>())
            .prop_map(|(cpu, user, at, write, cached)| Step::Access(cpu, user, at, write, cached)),
        6 => update,
        1 => Just(Step::Flush),
        1 => Just(Step::Round),
    ]
}

fn run(steps: &[Step]) -> Result<(), String> {
    let mut machine = Machine::new(FRAMES);
    for (index, step) in steps.iter().enumerate() {
        let result = match *step {
            Step::Access(cpu, user, at, write, cached) => {
                let address = Machine::addresses().nth(at.into()).unwrap_or(0);
                machine.access(cpu, user, address, write, cached)
            }
            Step::Update(operation) => machine.update(operation),
            Step::Flush => {
                machine.flush();
                Ok(())
            }
            Step::Round => machine.round(),
        };
        result
            .and_then(|()| machine.world.audit())
            .map_err(|error| format!("step {index}, {step:?}: {error}"))?;
    }
    machine.round()?;
    machine.world.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn writes_are_logged_and_translations_are_the_guests(
        steps in prop::collection::vec(steps(), 1..120)
    ) {
        if let Err(error) = run(&steps) {
            return Err(TestCaseError::fail(error));
        }
    }
}

fn dirty(machine: &Machine, clean: bool) -> Vec<u64> {
    let mut pages = DirtyPages::default();
    let mm = &machine.world.mm;
    if clean {
        mm.clean_log(&machine.memory, &mut |_| (), &mut pages)
            .unwrap();
    } else {
        mm.peek_log(&machine.memory, &mut |_| (), &mut pages)
            .unwrap();
    }
    (0..64 * pages.words.len() as u64)
        .filter(|&pfn| pages.words[pfn as usize / 64] >> (pfn % 64) & 1 != 0)
        .collect()
}

#[test]
fn a_round_is_a_fault_a_page() {
    let mut machine = Machine::new(FRAMES);
    assert_eq!(dirty(&machine, false), []);
    // The first read sets A in the tables (in the root it is always), and dirties no more.
    machine.access(0, false, 5 << 12, false, false).unwrap();
    assert_eq!(dirty(&machine, true), [1, 2, 3]);
    machine.access(0, false, 5 << 12, true, false).unwrap();
    // D in the level-1 table, and the page.
    assert_eq!(dirty(&machine, false), [3, 5]);
    assert_eq!(dirty(&machine, true), [3, 5]);
    // What the CPU knew of the right to write is gone.
    machine.access(0, false, 5 << 12, true, false).unwrap();
    assert_eq!(dirty(&machine, true), [5]);
    machine.access(1, false, 5 << 12, true, false).unwrap();
    machine.access(0, false, 6 << 12, false, false).unwrap();
    assert_eq!(dirty(&machine, true), [3, 5]);
    assert_eq!(dirty(&machine, true), []);
    machine.world.finish().unwrap();
}

#[test]
fn what_others_may_write_is_dirty_in_each_round() {
    let machine = Machine::new(FRAMES);
    let frames = machine.own_frames();
    let find = |pfn| {
        frames
            .iter()
            .copied()
            .find(|&mfn| machine.pfn(mfn) == Some(Pfn(pfn)))
    };
    let (held, granted) = (find(6).unwrap(), find(7).unwrap());
    let mm = &machine.world.mm;
    mm.hold_writable(held, machine.memory.id()).unwrap();
    for _ in 0..2 {
        assert_eq!(dirty(&machine, true), [6]);
    }
    let mut pages = DirtyPages::default();
    mm.clean_log(&machine.memory, &mut |mark| mark(granted), &mut pages)
        .unwrap();
    assert_eq!(pages.words, [1 << 6 | 1 << 7]);
    mm.release_held(held);
    assert_eq!(dirty(&machine, true), [6]);
    assert_eq!(dirty(&machine, true), []);
    machine.world.finish().unwrap();
}

#[test]
fn pins_are_logged() {
    let mut machine = Machine::new(FRAMES);
    let frames = machine.own_frames();
    let table = frames
        .into_iter()
        .find(|&mfn| machine.pfn(mfn) == Some(Pfn(3)));
    for cmd in [MMUEXT_PIN_L1_TABLE, MMUEXT_UNPIN_TABLE] {
        assert_eq!(dirty(&machine, true), []);
        let (mm, memory, tables) = machine.world.guest(GUEST);
        let mut caller = MmuCaller {
            domain: &memory,
            tables,
            preempt: &Never,
        };
        let op = MmuextOp {
            cmd,
            _pad0: [0; 4],
            arg1: table.unwrap().0,
            arg2: 0,
        };
        mm.mmuext_op(&mut caller, &mut NullMachine, PageOwner::of(&memory), op)
            .unwrap();
        // It is a table before and after.
        assert_eq!(dirty(&machine, true), [3], "operation {cmd}");
    }
    machine.world.finish().unwrap();
}

#[test]
fn a_shadow_is_reused_only_when_no_cpu_walks_through_it() {
    let mut machine = Machine::new(FRAMES);
    // The CPU remembers the table of these 2 MiB.
    machine.access(0, false, 0x20_4000, false, true).unwrap();
    let frames = machine.own_frames();
    let l2 = frames
        .into_iter()
        .find(|&mfn| machine.pfn(mfn) == Some(Pfn(2)));
    let at = l2.unwrap().0 << 12 | 8;
    let (mm, memory, tables) = machine.world.guest(GUEST);
    let mut caller = MmuCaller {
        domain: &memory,
        tables,
        preempt: &Never,
    };
    mm.mmu_update(&mut caller, &memory, PageOwner::of(&memory), at, 0)
        .unwrap();
    machine.settled = false;
    // The last of the frames that are free is the one of that table.
    for address in [0x40_4000, 0x60_4000, 0x5000] {
        machine.access(1, false, address, false, true).unwrap();
    }
    machine.access(0, false, 0x20_5000, false, true).unwrap();
    machine.world.audit().unwrap();
    machine.world.finish().unwrap();
}

#[test]
fn when_frames_run_out_all_shadows_are_made_again() {
    let mut machine = Machine::new(FRAMES);
    let made = |machine: &Machine| machine.memory.shadow.lock().as_ref().unwrap().used.len();
    for (user, address) in [
        (true, 0x4000),
        (false, 0x4000),
        (false, 0x20_4000),
        (false, 0x40_4000),
    ] {
        machine.access(0, user, address, true, true).unwrap();
        machine.world.audit().unwrap();
    }
    assert_eq!(made(&machine), FRAMES);
    machine.access(0, false, 0x60_4000, true, true).unwrap();
    machine.world.audit().unwrap();
    assert_eq!(made(&machine), 5);
    machine.access(0, true, 0x20_5000, true, true).unwrap();
    machine.round().unwrap();
    // With frames left, so that each shadow gets another one than it had.
    let host = &machine.world.mm.host;
    let mut shadow = machine.memory.shadow.lock();
    shadow.as_mut().unwrap().drop_all(host);
    drop(shadow);
    machine.access(1, false, 0x4000, true, false).unwrap();
    machine.world.audit().unwrap();
    machine.world.finish().unwrap();
}
