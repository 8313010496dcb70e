//! Event channels of this process: `/dev/xen/evtchn` (Linux `xen/evtchn.h`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use overcast_core::ids::EventPort;

use crate::error::{Error, Result};

const DEVICE: &str = "/dev/xen/evtchn";

const fn evtchn_ioctl(number: u32, size: u32) -> libc::c_ulong {
    ((size as libc::c_ulong) << 16) | ((b'E' as libc::c_ulong) << 8) | number as libc::c_ulong
}

const IOCTL_BIND_INTERDOMAIN: libc::c_ulong = evtchn_ioctl(1, 8);
const IOCTL_UNBIND: libc::c_ulong = evtchn_ioctl(3, 4);
const IOCTL_NOTIFY: libc::c_ulong = evtchn_ioctl(4, 4);

/// Event channels; closed on drop.
pub struct EventChannels {
    device: File,
}

impl EventChannels {
    /// Opens the device; reads of it do not wait.
    pub fn open() -> Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|source| Error::NoControl {
                path: DEVICE,
                source,
            })?;
        Ok(Self { device })
    }

    /// An ioctl with words for argument; gives what it returns, a port or 0.
    fn ioctl(
        &self,
        operation: &'static str,
        request: libc::c_ulong,
        mut argument: [u32; 2],
    ) -> Result<EventPort> {
        let device = self.device.as_raw_fd();
        // SAFETY: none of the requests is larger than the argument, which lives over the call.
        let result = unsafe { libc::ioctl(device, request as _, argument.as_mut_ptr()) };
        u32::try_from(result)
            .map(EventPort)
            .map_err(|_| Error::Hypercall {
                operation,
                errno: io::Error::last_os_error().raw_os_error().unwrap_or(0),
            })
    }

    /// Binds the other end of a channel; gives the own port, which is masked after each event
    /// until [`Self::unmask`].
    pub fn bind_interdomain(&self, domain: u16, port: EventPort) -> Result<EventPort> {
        // `struct ioctl_evtchn_bind_interdomain`: unsigned int remote_domain, remote_port.
        self.ioctl(
            "bind an event channel",
            IOCTL_BIND_INTERDOMAIN,
            [u32::from(domain), port.0],
        )
    }

    /// Gives a port up.
    pub fn unbind(&self, port: EventPort) -> Result<()> {
        self.ioctl("unbind an event channel", IOCTL_UNBIND, [port.0, 0])?;
        Ok(())
    }

    /// Sends an event.
    pub fn notify(&self, port: EventPort) -> Result<()> {
        self.ioctl("send an event", IOCTL_NOTIFY, [port.0, 0])?;
        Ok(())
    }

    /// A port that had an event, masked now; `None` if there is none.
    pub fn pending(&self) -> Result<Option<EventPort>> {
        let mut bytes = [0; 4];
        match (&self.device).read(&mut bytes) {
            Ok(4) => Ok(Some(EventPort(u32::from_ne_bytes(bytes)))),
            Ok(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets a port have events again.
    pub fn unmask(&self, port: EventPort) -> Result<()> {
        (&self.device).write_all(&port.0.to_ne_bytes())?;
        Ok(())
    }
}

impl AsFd for EventChannels {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ioctls_have_the_numbers_of_the_header() {
        assert_eq!(IOCTL_BIND_INTERDOMAIN, 0x08_4501);
        assert_eq!(IOCTL_NOTIFY, 0x04_4504);
    }
}
