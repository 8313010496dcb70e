//! Guests' consoles (public header io/console.h).
//!
//! A console is a page of the guest's with two rings, and an event channel, of which one
//! process of Dom0 can hold the other end ([`Port`]): xenconsoled of Xen, the daemon of
//! `overcast` ([`crate::daemon`]), or `overcast console` itself if nobody else does. The
//! daemon hands consoles on by its socket ([`client`]), and by a terminal each ([`pty`]), which
//! is what `xl console` takes.

pub mod client;
pub mod pty;
pub mod ring;

use overcast_core::addr::Mfn;
use overcast_core::ids::EventPort;

use crate::control::Control;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::xen::evtchn::EventChannels;
use crate::xen::foreign::{Access, ForeignMap};
use ring::Ring;

/// The own end of a guest's console.
pub struct Port {
    /// The guest.
    pub domain: u16,
    /// Our port, of the event channels that it was made with.
    pub port: EventPort,
    page: ForeignMap,
}

impl Port {
    /// Takes a guest's console, as the store says where it is.
    ///
    /// # Errors
    /// `ConsoleTaken` if another process has it; `NoConsole` if the store knows none.
    pub fn open(
        control: &Control,
        store: &mut Store,
        events: &EventChannels,
        domain: u16,
    ) -> Result<Self> {
        let mut number = |key: &str| -> Result<Option<u64>> {
            let text = store.read_text(&format!("/local/domain/{domain}/console/{key}"))?;
            Ok(text.and_then(|text| text.trim().parse().ok()))
        };
        let (Some(frame), Some(port)) = (number("ring-ref")?, number("port")?) else {
            return Err(Error::NoConsole(domain));
        };
        let remote = u32::try_from(port).map_err(|_| Error::NoConsole(domain))?;
        let port =
            events
                .bind_interdomain(domain, EventPort(remote))
                .map_err(|error| match error {
                    Error::Hypercall { errno, .. } if errno == libc::EINVAL => {
                        Error::ConsoleTaken(domain)
                    }
                    other => other,
                })?;
        let page = ForeignMap::all(control.privcmd(), domain, &[Mfn(frame)], Access::Write);
        match page {
            Ok(page) => Ok(Self { domain, port, page }),
            Err(error) => {
                let _ = events.unbind(port);
                Err(error)
            }
        }
    }

    /// Its rings.
    pub fn ring(&self) -> Option<Ring<'_>> {
        self.page.frame(0).map(Ring::new)
    }
}
