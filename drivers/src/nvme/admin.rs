//! Commands for the controller itself, while it is set up.

use core::sync::atomic::Ordering;

use super::queue::{Command, Finished, Pair};
use super::{MAX_SEGMENTS, MAX_TRANSFER, NvmeError, PATIENCE, opcode};
use crate::block::{BlockInfo, RangeLimits, SECTOR_SIZE};
use crate::platform::{Dma, PAGE_SIZE, Platform};

/// The administrator's commands while the controller is set up.
pub struct Admin<'a> {
    /// Its queue.
    pub pair: Pair,
    /// Answers of Identify.
    pub answer: Dma,
    /// The machine.
    pub platform: &'a dyn Platform,
}

impl Admin<'_> {
    /// Runs a command, and waits for its result.
    pub fn run(&mut self, command: Command) -> Result<u32, NvmeError> {
        let opcode = command.opcode();
        self.pair.push(&command);
        self.pair.tell();
        for _ in 0..PATIENCE {
            if let Some(Finished { status, result, .. }) = self.pair.take() {
                self.pair.release();
                return match status {
                    0 => Ok(result),
                    status => Err(NvmeError::Command(opcode, Some(status))),
                };
            }
            self.platform.wait(100);
        }
        Err(NvmeError::Command(opcode, None))
    }

    fn identify(&mut self, what: u32, namespace: u32) -> Result<(), NvmeError> {
        let mut command = Command::new(opcode::IDENTIFY, 0, namespace);
        command.set_data(self.answer.address(0), 0);
        command.set(10, what);
        self.run(command).map(|_| ())
    }

    fn answer8(&self, at: usize) -> u8 {
        self.answer.load8(at, Ordering::Relaxed)
    }

    fn answer32(&self, at: usize) -> u32 {
        self.answer.load32(at, Ordering::Relaxed)
    }

    /// What the controller and its first namespace are (5.15).
    pub fn namespace(&mut self) -> Result<(u32, BlockInfo), NvmeError> {
        // Those that are there; controllers before 1.1 do not tell, and have them from 1 on.
        let namespace = match self.identify(2, 0) {
            Ok(()) => self.answer32(0),
            Err(NvmeError::Command(_, Some(_))) => 1,
            Err(error) => return Err(error),
        };
        if namespace == 0 {
            return Err(NvmeError::NoNamespace);
        }
        self.identify(1, 0)?;
        let mut serial = [0; 20];
        for (at, byte) in serial.iter_mut().enumerate() {
            *byte = self.answer8(4 + at);
        }
        // What fills it up is no part of it.
        let end = serial.iter().rposition(|&c| c != b' ' && c != 0);
        serial
            .iter_mut()
            .skip(end.map_or(0, |end| end + 1))
            .for_each(|byte| *byte = 0);
        let max_transfer = match self.answer8(77) {
            0 => MAX_TRANSFER,
            pages => (PAGE_SIZE as u32)
                .checked_shl(pages.into())
                .filter(|&bytes| bytes != 0)
                .map_or(MAX_TRANSFER, |bytes| bytes.min(MAX_TRANSFER)),
        };
        let commands = self.answer32(520);
        let flush = self.answer8(525) & 1 != 0;

        self.identify(0, namespace)?;
        let blocks = u64::from(self.answer32(0)) | u64::from(self.answer32(4)) << 32;
        let format = usize::from(self.answer8(26) & 15);
        let format = self.answer32(128 + 4 * format);
        let (metadata, shift) = (format & 0xffff, format >> 16 & 0xff);
        let sectors = blocks.checked_mul(1 << shift.saturating_sub(9).min(32));
        // Blocks of 512 to 4096 bytes, without anything between them.
        if metadata != 0 || !(9..=12).contains(&shift) || blocks == 0 {
            return Err(NvmeError::NoNamespace);
        }
        let block = 1u32 << shift;
        let most = |blocks: u64| RangeLimits {
            max_sectors: blocks * u64::from(block) / SECTOR_SIZE,
            alignment: 1,
        };
        let info = BlockInfo {
            sectors: sectors.ok_or(NvmeError::NoNamespace)?,
            logical_block_size: block,
            physical_block_size: block,
            read_only: self.answer8(99) & 1 != 0,
            flush,
            max_segments: MAX_SEGMENTS,
            max_segment_size: max_transfer,
            max_transfer: MAX_TRANSFER,
            discard: (commands & 1 << 2 != 0).then(|| most(u32::MAX.into())),
            write_zeroes: (commands & 1 << 3 != 0).then(|| most(1 << 16)),
            serial,
        };
        Ok((namespace, info))
    }
}
