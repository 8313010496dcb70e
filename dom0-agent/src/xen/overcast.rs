//! The control operations of Overcast's own ([`xen_abi::overcast`]).

use xen_abi::overcast::*;
use zerocopy::FromZeros;

use crate::control::Control;
use crate::error::{Error, Result};

/// How far the log of a disk's writes goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskLog {
    /// Bytes of a block.
    pub block: u64,
    /// How many.
    pub blocks: u64,
}

impl Control {
    fn disk_log(
        &self,
        operation: &'static str,
        domain: u16,
        argument: &mut DomctlDiskLog,
    ) -> Result<()> {
        self.again(operation, OVERCAST_DOMCTL_DISK_LOG, domain, argument)
    }

    /// Begins to log which blocks of a domain's disk are written.
    ///
    /// # Errors
    /// `Hypercall`: EEXIST if somebody does already, ENOENT if the hypervisor does not serve it, EOPNOTSUPP
    /// if others write it too.
    pub fn disk_log_start(&self, domain: u16, device: u32) -> Result<DiskLog> {
        let mut argument = DomctlDiskLog::new_zeroed();
        argument.op = DISK_LOG_START;
        argument.device = device;
        self.disk_log("log a disk's writes", domain, &mut argument)?;
        Ok(DiskLog {
            block: u64::from(argument.block_sectors) * 512,
            blocks: argument.blocks,
        })
    }

    /// Ends the log.
    pub fn disk_log_stop(&self, domain: u16, device: u32) -> Result<()> {
        let mut argument = DomctlDiskLog::new_zeroed();
        argument.op = DISK_LOG_STOP;
        argument.device = device;
        self.disk_log("end the log of a disk's writes", domain, &mut argument)
    }

    /// The blocks that were written since this was asked the last time, a bit each.
    ///
    /// # Errors
    /// Some may be lost then.
    pub fn disk_log_take(&self, domain: u16, device: u32, log: DiskLog) -> Result<Vec<u64>> {
        let all = usize::try_from(log.blocks.div_ceil(64)).unwrap_or(usize::MAX);
        let mut words = Vec::new();
        let room = all.clamp(1, DISK_LOG_MAX_WORDS as usize);
        let buffer = self.privcmd().buffer::<u64>(room)?;
        while words.len() < all {
            let mut argument = DomctlDiskLog::new_zeroed();
            argument.op = DISK_LOG_TAKE;
            argument.device = device;
            argument.first = words.len() as u64 * 64;
            argument.bitmap = buffer.handle();
            argument.words = (all - words.len()).min(room) as u32;
            self.disk_log("read the log of a disk's writes", domain, &mut argument)?;
            let got = buffer.items().get(..argument.words as usize);
            match got {
                Some(got) if !got.is_empty() => words.extend_from_slice(got),
                _ => return Err(Error::Unfit("the log of a disk's writes ends early".into())),
            }
        }
        Ok(words)
    }
}
