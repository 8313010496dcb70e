//! Vifs and a NIC, joined by a switch.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use spin::{Once, RwLock};

use overcast_drivers::net::ReceivedFrame;

use super::packet::Packet;
use super::{BACKLOG_HIGH, NetbackHost, Uplink, Vif};
use crate::error::{Error, Result};
use crate::switch::{Decision, MacAddress, PortId, Switch, TABLE_SIZE};

/// See the module's docs.
pub struct Fabric<H: NetbackHost> {
    host: &'static H,
    switch: Switch,
    /// Vifs, by the numbers of their ports.
    vifs: RwLock<Vec<Option<Arc<Vif<H>>>>>,
    uplink: Once<(PortId, Arc<Uplink<H>>)>,
    /// How many vifs there are.
    count: AtomicUsize,
    /// Frames of memory that wait for guests.
    backlog: AtomicUsize,
    /// The NIC waits for a guest.
    waiting: AtomicBool,
}

impl<H: NetbackHost> Fabric<H> {
    /// A fabric without vifs; `secret` is a number that guests do not know. `NoMemory`.
    pub fn new(host: &'static H, secret: u64) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            host,
            switch: Switch::new(secret)?,
            vifs: RwLock::new(Vec::new()),
            uplink: Once::new(),
            count: AtomicUsize::new(0),
            backlog: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
        }))
    }

    /// Joins the NIC, once. Errors: `Exists`; `NoSpace`, `NoMemory`.
    pub fn set_uplink(&self, uplink: Arc<Uplink<H>>) -> Result<()> {
        if self.uplink.get().is_some() {
            return Err(Error::Exists);
        }
        let port = self.switch.add_port(None, TABLE_SIZE as u32)?;
        self.uplink.call_once(|| (port, uplink));
        Ok(())
    }

    /// The NIC, if there is one.
    pub fn uplink(&self) -> Option<&Arc<Uplink<H>>> {
        self.uplink.get().map(|(_, uplink)| uplink)
    }

    pub(super) fn join(&self, vif: &Arc<Vif<H>>, mac: MacAddress, learned: u32) -> Result<PortId> {
        let port = self.switch.add_port(Some(mac), learned)?;
        let mut vifs = self.vifs.write();
        let index = usize::from(port.0);
        let missing = (index + 1).saturating_sub(vifs.len());
        if missing != 0 {
            if vifs.try_reserve(missing).is_err() {
                drop(vifs);
                self.switch.remove_port(port);
                return Err(Error::NoMemory);
            }
            vifs.resize_with(index + 1, || None);
        }
        if let Some(place) = vifs.get_mut(index) {
            *place = Some(vif.clone());
            self.count.fetch_add(1, Ordering::AcqRel);
        }
        Ok(port)
    }

    pub(super) fn leave(&self, port: PortId) {
        // Dropped without the lock.
        let vif = self
            .vifs
            .write()
            .get_mut(usize::from(port.0))
            .and_then(Option::take);
        if vif.is_some() {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
        self.switch.remove_port(port);
        self.go_on();
    }

    /// Notes that so many frames of memory wait.
    pub(super) fn remember(&self, frames: usize) {
        self.backlog.fetch_add(frames, Ordering::AcqRel);
    }

    /// Notes that so many wait no more.
    pub(super) fn forget(&self, frames: usize) {
        if frames != 0 {
            self.backlog.fetch_sub(frames, Ordering::AcqRel);
            self.go_on();
        }
    }

    /// Wakes the NIC if it waits for a guest that went on.
    fn go_on(&self) {
        if self.waiting.load(Ordering::Acquire)
            && !self.is_full()
            && self.waiting.swap(false, Ordering::AcqRel)
            && let Some(uplink) = self.uplink()
        {
            uplink.raise_all();
        }
    }

    fn is_full(&self) -> bool {
        self.count.load(Ordering::Acquire) == 1
            && self.backlog.load(Ordering::Acquire) >= BACKLOG_HIGH
    }

    /// Whether the NIC is to wait until the only guest takes what there is for it; it is
    /// raised then.
    pub(super) fn must_wait(&self) -> bool {
        if !self.is_full() {
            return false;
        }
        self.waiting.store(true, Ordering::SeqCst);
        // It may have gone on before it could see that.
        let full = self.is_full();
        if !full {
            self.waiting.store(false, Ordering::SeqCst);
        }
        full
    }

    fn seconds(&self) -> u32 {
        // From 1 on: 0 is never.
        (self.host.now() / 1_000_000_000) as u32 + 1
    }

    fn vif(&self, port: PortId) -> Option<Arc<Vif<H>>> {
        self.vifs.read().get(usize::from(port.0))?.clone()
    }

    /// Gives a frame that came in by a port to the vifs that it is for; `true` if the NIC
    /// is to get it too.
    pub(super) fn forward(&self, from: PortId, packet: &mut Packet<'_>) -> bool {
        let now = self.seconds();
        let decision = self
            .switch
            .forward(from, packet.source(), packet.destination(), now);
        let nic = self.uplink.get().map(|&(port, _)| port);
        match decision {
            Decision::Drop => false,
            Decision::Port(port) if Some(port) == nic => true,
            Decision::Port(port) => {
                if let Some(vif) = self.vif(port) {
                    vif.deliver(packet);
                }
                false
            }
            Decision::Flood => {
                // Copied to without the list's lock: whoever adds or removes a vif would wait
                // for all that guests flood, which may have no end.
                let end = self.vifs.read().len() as u16;
                for port in (0..end).map(PortId).filter(|&port| port != from) {
                    if let Some(vif) = self.vif(port) {
                        vif.deliver(packet);
                    }
                }
                nic.is_some_and(|nic| nic != from)
            }
        }
    }

    /// Takes a frame that the NIC received.
    pub(super) fn receive(&self, frame: &ReceivedFrame<'_>) {
        let Some(&(port, _)) = self.uplink.get() else {
            return;
        };
        if let Some(mut packet) =
            Packet::read(self.host, frame.segments, frame.length, frame.offload)
        {
            self.forward(port, &mut packet);
        }
    }
}
