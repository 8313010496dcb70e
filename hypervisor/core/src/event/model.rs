//! Random operations of two domains beside a model so plain that it is
//! obviously right: every result, every port number and every event must be
//! what the model says.
#![cfg_attr(not(test), allow(dead_code))]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::vec::Vec;

use super::guest::{FifoGuest, Host, p, take_upcall, two_level_drain, two_level_mask};
use super::*;
use crate::fuzz::Choices;
use crate::machine::Never;

#[derive(Clone, Copy, Debug)]
enum Op {
    AllocUnbound { d: usize, remote: usize },
    BindInterdomain { d: usize, port: u32 },
    BindVirq { d: usize, virq: u32, vcpu: u32 },
    BindIpi { d: usize, vcpu: u32 },
    Close { d: usize, port: u32 },
    Send { d: usize, port: u32 },
    SendVirq { d: usize, virq: u32, vcpu: u32 },
    BindVcpu { d: usize, port: u32, vcpu: u32 },
    SetPriority { d: usize, port: u32, priority: u32 },
    Mask { d: usize, port: u32 },
    Unmask { d: usize, port: u32 },
    Drain { d: usize },
    Reset { d: usize },
}

impl Op {
    /// The next operation of a fuzzer's.
    fn read(from: &mut Choices<'_>) -> Option<Self> {
        let kind = from.below(13)?;
        let d = usize::from(from.below(2)?);
        let x = u32::from(from.byte()?);
        let (port, vcpu) = (x % 14, x % 3);
        Some(match kind {
            0 => Self::AllocUnbound {
                d,
                remote: x as usize % 2,
            },
            1 => Self::BindInterdomain { d, port },
            2 => Self::BindVirq {
                d,
                virq: [0, 1, 2, 3, 24][x as usize / 3 % 5],
                vcpu,
            },
            3 => Self::BindIpi { d, vcpu },
            4 => Self::Close { d, port },
            5 => Self::Send { d, port },
            6 => Self::SendVirq {
                d,
                virq: [0, 1, 2, 3, 24][x as usize / 3 % 5],
                vcpu,
            },
            7 => Self::BindVcpu {
                d,
                port,
                vcpu: x / 14 % 3,
            },
            8 => Self::SetPriority {
                d,
                port,
                priority: x / 14,
            },
            9 => Self::Mask { d, port },
            10 => Self::Unmask { d, port },
            11 => Self::Drain { d },
            _ => Self::Reset { d },
        })
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Model {
    Unbound(usize),
    Inter(usize, u32),
    Virq(u32, u32),
    Ipi,
}

#[derive(Default)]
struct ModelDomain {
    fifo: bool,
    ports: BTreeMap<u32, Model>,
    pending: BTreeSet<u32>,
    masked: BTreeSet<u32>,
    /// FIFO: in a queue.
    linked: BTreeSet<u32>,
}

impl ModelDomain {
    fn free(&self) -> u32 {
        (1..)
            .find(|port| !self.ports.contains_key(port) && !self.linked.contains(port))
            .unwrap()
    }

    fn set(&mut self, port: u32) {
        self.pending.insert(port);
        if self.fifo && !self.masked.contains(&port) {
            self.linked.insert(port);
        }
    }

    fn virq(&self, virq: u32, vcpu: u32) -> Option<u32> {
        let vcpu = if virq_is_global(virq) { 0 } else { vcpu };
        self.ports
            .iter()
            .find(|(_, m)| **m == Model::Virq(virq, vcpu))
            .map(|(port, _)| *port)
    }

    /// The events that a guest which looks now must find.
    fn deliverable(&self) -> BTreeSet<u32> {
        self.pending.difference(&self.masked).copied().collect()
    }
}

struct World {
    host: Host,
    real: [Arc<EventChannels>; 2],
    model: [ModelDomain; 2],
    guests: [Option<FifoGuest>; 2],
}

impl World {
    fn new(fifo: [bool; 2]) -> Self {
        let host = Host::new(32);
        let real = [0, 1].map(|d| {
            EventChannels::new(DomainId(d), 2, Some(Mfn(u64::from(d) + 1)), u32::MAX).unwrap()
        });
        let model = fifo.map(|fifo| ModelDomain {
            fifo,
            ..ModelDomain::default()
        });
        let mut world = Self {
            host,
            real,
            model,
            guests: [None, None],
        };
        for (d, _) in fifo.iter().enumerate().filter(|(_, fifo)| **fifo) {
            world.set_up_fifo(d);
        }
        world
    }

    fn set_up_fifo(&mut self, d: usize) {
        let base = 10 + 5 * d as u64;
        let control = [Mfn(base), Mfn(base + 1)];
        for mfn in control {
            self.host.frame(mfn).unwrap().zero();
        }
        self.guests[d] = Some(FifoGuest::new(
            &self.host,
            &self.real[d],
            &control,
            &[Mfn(base + 2)],
        ));
    }

    fn id(d: usize) -> DomainId {
        DomainId(d as u16)
    }

    fn drain(&mut self, d: usize) {
        let expected = self.model[d].deliverable();
        let mut found = BTreeSet::new();
        for vcpu in 0..2 {
            let upcall = take_upcall(&self.host, &self.real[d], vcpu);
            let events = match &mut self.guests[d] {
                Some(guest) => {
                    let mut events = Vec::new();
                    let host = &self.host;
                    guest.drain(host, vcpu, |guest, port| {
                        guest.clear_pending(host, port);
                        events.push(port);
                    });
                    events
                }
                None => two_level_drain(&self.host, &self.real[d], Mfn(d as u64 + 1), vcpu),
            };
            assert!(upcall || events.is_empty(), "events without an upcall");
            for event in events {
                assert!(found.insert(event), "an event twice");
            }
        }
        assert_eq!(found, expected);
        for event in expected {
            self.model[d].pending.remove(&event);
        }
        self.model[d].linked.clear();
    }

    fn close_in_model(&mut self, d: usize, port: u32) -> bool {
        let Some(old) = self.model[d].ports.remove(&port) else {
            return false;
        };
        self.model[d].pending.remove(&port);
        if let Model::Inter(r, rport) = old {
            self.model[r].ports.insert(rport, Model::Unbound(d));
        }
        true
    }

    fn step(&mut self, op: Op) {
        let host = &self.host;
        match op {
            Op::AllocUnbound { d, remote } => {
                let port = self.model[d].free();
                assert_eq!(
                    self.real[d].alloc_unbound(host, Self::id(remote)),
                    Ok(p(port))
                );
                self.model[d].ports.insert(port, Model::Unbound(remote));
            }
            Op::BindInterdomain { d, port } => {
                // To the other domain, or with an odd port to itself.
                let r = if port % 2 == 1 { 1 - d } else { d };
                let result = self.real[d].bind_interdomain(host, &self.real[r], p(port));
                if self.model[r].ports.get(&port) == Some(&Model::Unbound(d)) {
                    let local = self.model[d].free();
                    assert_eq!(result, Ok(p(local)));
                    self.model[d].ports.insert(local, Model::Inter(r, port));
                    self.model[r].ports.insert(port, Model::Inter(d, local));
                    self.model[d].set(local);
                } else {
                    assert_eq!(result, Err(Error::Invalid));
                }
            }
            Op::BindVirq { d, virq, vcpu } => {
                let result = self.real[d].bind_virq(host, virq, VcpuId(vcpu));
                let expected = if virq >= 24 || (virq_is_global(virq) && vcpu != 0) {
                    Err(Error::Invalid)
                } else if vcpu >= 2 {
                    Err(Error::NoEntry)
                } else if self.model[d].virq(virq, vcpu).is_some() {
                    Err(Error::Exists)
                } else {
                    Ok(p(self.model[d].free()))
                };
                assert_eq!(result, expected);
                if let Ok(port) = expected {
                    self.model[d].ports.insert(port.0, Model::Virq(virq, vcpu));
                }
            }
            Op::BindIpi { d, vcpu } => {
                let result = self.real[d].bind_ipi(host, VcpuId(vcpu));
                if vcpu < 2 {
                    let port = self.model[d].free();
                    assert_eq!(result, Ok(p(port)));
                    self.model[d].ports.insert(port, Model::Ipi);
                } else {
                    assert_eq!(result, Err(Error::NoEntry));
                }
            }
            Op::Close { d, port } => {
                let result = self.real[d].close(host, p(port));
                let expected = if self.close_in_model(d, port) {
                    Ok(())
                } else {
                    Err(Error::Invalid)
                };
                assert_eq!(result, expected);
            }
            Op::Send { d, port } => {
                let result = self.real[d].send(host, p(port));
                match self.model[d].ports.get(&port).copied() {
                    Some(Model::Inter(r, rport)) => {
                        self.model[r].set(rport);
                        assert_eq!(result, Ok(None));
                    }
                    Some(Model::Ipi) => {
                        self.model[d].set(port);
                        assert_eq!(result, Ok(None));
                    }
                    Some(Model::Unbound(_)) => assert_eq!(result, Ok(None)),
                    _ => assert_eq!(result, Err(Error::Invalid)),
                }
            }
            Op::SendVirq { d, virq, vcpu } => {
                self.real[d].send_virq(host, virq, VcpuId(vcpu));
                if let Some(port) = self.model[d].virq(virq, vcpu) {
                    self.model[d].set(port);
                }
            }
            Op::BindVcpu { d, port, vcpu } => {
                let result = self.real[d].bind_vcpu(p(port), VcpuId(vcpu));
                let expected = match self.model[d].ports.get(&port) {
                    _ if vcpu >= 2 => Err(Error::NoEntry),
                    Some(Model::Unbound(_) | Model::Inter(..)) => Ok(()),
                    Some(Model::Virq(virq, _)) if virq_is_global(*virq) => Ok(()),
                    _ => Err(Error::Invalid),
                };
                assert_eq!(result, expected);
            }
            Op::SetPriority { d, port, priority } => {
                let result = self.real[d].set_priority(p(port), priority);
                let expected = if !self.model[d].fifo {
                    Err(Error::NotImplemented)
                } else if !self.model[d].ports.contains_key(&port) {
                    Err(Error::Access)
                } else if priority > 15 {
                    Err(Error::Invalid)
                } else {
                    Ok(())
                };
                assert_eq!(result, expected);
            }
            Op::Mask { d, port } => {
                match &self.guests[d] {
                    Some(guest) => guest.mask(host, port),
                    None => two_level_mask(host, Mfn(d as u64 + 1), port),
                }
                self.model[d].masked.insert(port);
            }
            Op::Unmask { d, port } => {
                assert_eq!(self.real[d].unmask(host, p(port)), Ok(()));
                if self.model[d].ports.contains_key(&port) {
                    self.model[d].masked.remove(&port);
                    if self.model[d].fifo && self.model[d].pending.contains(&port) {
                        self.model[d].linked.insert(port);
                    }
                }
            }
            Op::Drain { d } => self.drain(d),
            Op::Reset { d } => {
                // A guest that resets takes no event afterwards.
                self.drain(d);
                assert_eq!(self.real[d].reset(&self.host, false, &Never), Ok(()));
                let open: Vec<_> = self.model[d].ports.keys().copied().collect();
                for port in open {
                    self.close_in_model(d, port);
                }
                if self.model[d].fifo {
                    assert!(!self.real[d].uses_fifo());
                    self.model[d].masked.clear();
                    self.set_up_fifo(d);
                }
            }
        }
    }

    fn finish(mut self) {
        for d in 0..2 {
            assert_eq!(self.real[d].counts(), (self.model[d].ports.len() as u32, 0));
            self.drain(d);
        }
        for real in &self.real {
            real.destroy(&self.host, &Never).unwrap();
            assert_eq!(real.counts(), (0, 0));
        }
        assert_eq!(self.host.refs(), 0);
        for real in &self.real {
            assert_eq!(Arc::strong_count(real), 1);
        }
    }
}

/// Runs what a fuzzer chose; panics where the model says something else.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let fifo = choices.byte().unwrap_or(0);
    let mut world = World::new([fifo & 1 != 0, fifo & 2 != 0]);
    for _ in 0..300 {
        let Some(op) = Op::read(&mut choices) else {
            break;
        };
        world.step(op);
    }
    world.finish();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn op() -> impl Strategy<Value = Op> {
        let d = 0..2usize;
        let port = 0..14u32;
        let vcpu = 0..3u32;
        let virq = prop_oneof![Just(0u32), Just(1), Just(2), Just(3), Just(24)];
        prop_oneof![
            4 => (d.clone(), 0..2usize).prop_map(|(d, remote)| Op::AllocUnbound { d, remote }),
            6 => (d.clone(), port.clone()).prop_map(|(d, port)| Op::BindInterdomain { d, port }),
            2 => (d.clone(), virq.clone(), vcpu.clone())
                .prop_map(|(d, virq, vcpu)| Op::BindVirq { d, virq, vcpu }),
            2 => (d.clone(), vcpu.clone()).prop_map(|(d, vcpu)| Op::BindIpi { d, vcpu }),
            5 => (d.clone(), port.clone()).prop_map(|(d, port)| Op::Close { d, port }),
            12 => (d.clone(), port.clone()).prop_map(|(d, port)| Op::Send { d, port }),
            3 => (d.clone(), virq, vcpu.clone())
                .prop_map(|(d, virq, vcpu)| Op::SendVirq { d, virq, vcpu }),
            3 => (d.clone(), port.clone(), vcpu)
                .prop_map(|(d, port, vcpu)| Op::BindVcpu { d, port, vcpu }),
            2 => (d.clone(), port.clone(), 0..18u32)
                .prop_map(|(d, port, priority)| Op::SetPriority { d, port, priority }),
            5 => (d.clone(), port.clone()).prop_map(|(d, port)| Op::Mask { d, port }),
            7 => (d.clone(), port).prop_map(|(d, port)| Op::Unmask { d, port }),
            5 => d.clone().prop_map(|d| Op::Drain { d }),
            1 => d.prop_map(|d| Op::Reset { d }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 600,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn operations_match_the_model(
            fifo in any::<[bool; 2]>(),
            ops in prop::collection::vec(op(), 1..120),
        ) {
            let mut world = World::new(fifo);
            for op in ops {
                world.step(op);
            }
            world.finish();
        }
    }
}
