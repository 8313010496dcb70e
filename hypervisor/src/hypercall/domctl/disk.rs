//! Logging which blocks of a domain's disks are written, for who moves it with its disks. What
//! it is and how it works: [`overcast_core::blkback::written`].

use overcast_core::blkback::Disk;
use overcast_core::error::{Error, Result};
use xen_abi::overcast::*;
use zerocopy::IntoBytes;

use super::super::ctl;
use super::Target;
use crate::backend::block;
use crate::guest;

/// Words between two copies.
const BATCH: usize = 512;

/// [`OVERCAST_DOMCTL_DISK_LOG`].
pub fn log(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    let mut args: DomctlDiskLog = ctl::get(u)?;
    let (disk, others_write) = block::disk(target.domain.id, args.device).ok_or(Error::NoEntry)?;
    let extent = match args.op {
        // What others write is in no log of this device's.
        DISK_LOG_START if others_write => return Err(Error::NotSupported),
        DISK_LOG_START => disk.start_log()?,
        DISK_LOG_STOP => return disk.end_log().then_some(()).ok_or(Error::NoData),
        DISK_LOG_TAKE => {
            args.words = take(&disk, &args)?;
            disk.with_log(|log| Ok(log.extent()))?
        }
        DISK_LOG_LOOK => disk.with_log(|log| Ok(log.extent()))?,
        _ => return Err(Error::Invalid),
    };
    args.block_sectors = u32::try_from(extent.block_sectors).map_err(|_| Error::Overflow)?;
    args.blocks = extent.blocks;
    args.written = extent.written;
    ctl::put(u, &args);
    target.has_answer = true;
    Ok(())
}

/// Copies bits to the caller; gives the number of words.
fn take(disk: &Disk, args: &DomctlDiskLog) -> Result<u32> {
    let wanted = args.words.min(DISK_LOG_MAX_WORDS) as usize;
    let mut words = [0u64; BATCH];
    let mut done = 0;
    while done < wanted {
        let first = (done as u64 * u64::from(u64::BITS))
            .checked_add(args.first)
            .ok_or(Error::Invalid)?;
        let room = words.get_mut(..(wanted - done).min(BATCH));
        let room = room.unwrap_or_default();
        // Not under the lock: the caller's memory may fault.
        let count = match disk.with_log(|log| log.take(first, room)) {
            // The log ends with a word, and the disk before it.
            Err(Error::Invalid) if done != 0 => 0,
            other => other?,
        };
        if count == 0 {
            break;
        }
        let got = room.get(..count).unwrap_or_default();
        guest::item::<u64>(args.bitmap, done as u64)
            .and_then(|at| guest::write_bytes(at, got.as_bytes()))
            .inspect_err(|_| {
                let _ = disk.with_log(|log| {
                    log.untake(first, got);
                    Ok(())
                });
            })?;
        done += count;
    }
    Ok(done as u32)
}
