//! STUB
use crate::error::Result;
use crate::ids::{CpuId, CpuSet, DomainId, VcpuId};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use spin::Mutex;
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct UnitId { pub domain: DomainId, pub vcpu: VcpuId }
#[derive(Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct UnitConfig { pub affinity: CpuSet }
#[allow(missing_docs)]
pub struct Decision { pub next: Option<UnitId>, pub run_until: u64 }
struct U { id: UnitId, runnable: bool, on: Option<CpuId>, queued: bool }
struct S { units: Vec<U>, queue: VecDeque<UnitId>, cpus: Vec<(CpuId, bool)> }
#[allow(missing_docs)]
pub struct Scheduler(Mutex<S>);
#[allow(missing_docs)]
impl Default for Scheduler { fn default() -> Self { Self::new() } }
#[allow(missing_docs)]
impl Scheduler {
    pub fn new() -> Self { Self(Mutex::new(S { units: Vec::new(), queue: VecDeque::new(), cpus: Vec::new() })) }
    pub fn add_cpu(&self, c: CpuId) { self.0.lock().cpus.push((c, true)); }
    pub fn add(&self, id: UnitId, _: UnitConfig) -> Result<()> { self.0.lock().units.push(U { id, runnable: false, on: None, queued: false }); Ok(()) }
    pub fn wake(&self, id: UnitId, _now: u64) -> Option<CpuId> {
        let mut s = self.0.lock(); let s = &mut *s;
        let u = s.units.iter_mut().find(|u| u.id == id)?;
        u.runnable = true;
        if u.queued || u.on.is_some() { return None; }
        u.queued = true; s.queue.push_back(id);
        s.cpus.iter().find(|c| c.1).or(s.cpus.first()).map(|c| c.0)
    }
    pub fn sleep(&self, id: UnitId, _now: u64) -> Option<CpuId> {
        let mut s = self.0.lock();
        let u = s.units.iter_mut().find(|u| u.id == id)?;
        u.runnable = false;
        u.on
    }
    pub fn yield_current(&self, _c: CpuId) {}
    pub fn schedule(&self, c: CpuId, now: u64) -> Decision {
        let mut s = self.0.lock(); let s = &mut *s;
        let cur = s.units.iter().position(|u| u.on == Some(c));
        if let Some(i) = cur && s.units[i].runnable && s.queue.is_empty() {
            return Decision { next: Some(s.units[i].id), run_until: u64::MAX };
        }
        let mut pick = None;
        while let Some(id) = s.queue.pop_front() {
            let u = s.units.iter_mut().find(|u| u.id == id).unwrap();
            u.queued = false;
            if u.runnable && u.on.is_none() { u.on = Some(c); pick = Some(id); break; }
        }
        if pick.is_none() && let Some(i) = cur && s.units[i].runnable { pick = Some(s.units[i].id); }
        let idle = pick.is_none();
        if let Some(e) = s.cpus.iter_mut().find(|e| e.0 == c) { e.1 = idle; }
        Decision { next: pick, run_until: if idle { u64::MAX } else { now + 10_000_000 } }
    }
    pub fn context_saved(&self, id: UnitId, _now: u64) -> Option<CpuId> {
        let mut s = self.0.lock(); let s = &mut *s;
        let u = s.units.iter_mut().find(|u| u.id == id)?;
        u.on = None;
        if u.runnable && !u.queued { u.queued = true; s.queue.push_back(id); return s.cpus.iter().find(|c| c.1).or(s.cpus.first()).map(|c| c.0); }
        None
    }
    pub fn set_affinity(&self, _: UnitId, _: CpuSet) -> Result<()> { Ok(()) }
    pub fn affinity(&self, _: UnitId) -> Option<CpuSet> { Some(CpuSet::ALL) }
    pub fn dump(&self, mut f: impl FnMut(&str)) { f("stub"); }
}
