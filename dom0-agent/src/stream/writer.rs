//! Writes libxc's stream.

use std::io::Write;

use zerocopy::{Immutable, IntoBytes};

use super::record::*;
use super::*;

/// Writes records.
pub struct Writer<W> {
    to: W,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the headers.
    pub fn new(to: W) -> Result<Self> {
        let mut writer = Self { to, written: 0 };
        writer.put(&MARKER.to_be_bytes())?;
        writer.put(&ID.to_be_bytes())?;
        writer.put(&VERSION.to_be_bytes())?;
        writer.put(&[0; 8])?;
        writer.put(&TYPE_X86_PV.to_le_bytes())?;
        writer.put(&12u32.to_le_bytes())?;
        // The Xen whose interface this is.
        writer.put(&4u32.to_le_bytes())?;
        writer.put(&17u32.to_le_bytes())?;
        Ok(writer)
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Where it goes, to be written to beside the stream or flushed.
    pub fn inner(&mut self) -> &mut W {
        &mut self.to
    }

    /// The end of the stream's user: gives back where it went.
    pub fn into_inner(self) -> W {
        self.to
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes)?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// A record of some parts.
    fn parts(&mut self, kind: Kind, parts: &[&[u8]]) -> Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let too_long = || Error::record(kind.name(), format!("{length} bytes do not fit"));
        let length = u32::try_from(length).map_err(|_| too_long())?;
        self.put(&(kind as u32).to_le_bytes())?;
        self.put(&length.to_le_bytes())?;
        for part in parts {
            self.put(part)?;
        }
        let padding = length.wrapping_neg() as usize % 8;
        self.put(&[0; 8][..padding])
    }

    /// A record of one thing.
    fn whole(&mut self, kind: Kind, body: &(impl IntoBytes + Immutable + ?Sized)) -> Result<()> {
        self.parts(kind, &[body.as_bytes()])
    }

    /// Writes a record.
    pub fn record(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::Pages(pages) => self.pages(pages),
            Record::PvInfo => self.whole(
                Kind::PvInfo,
                &PvInfo {
                    width: 8,
                    levels: 4,
                    reserved: [0; 6],
                },
            ),
            Record::P2mFrames { start, end, frames } => {
                let number = |pfn: &Pfn| {
                    u32::try_from(pfn.0)
                        .map_err(|_| Error::record(record.name(), "a frame number beyond 32 bits"))
                };
                let head = [number(start)?, number(end)?];
                let frames: Vec<u64> = frames.iter().map(|frame| frame.0).collect();
                self.parts(Kind::PvP2mFrames, &[head.as_bytes(), frames.as_bytes()])
            }
            Record::Vcpu { vcpu, part, state } => {
                let head = VcpuHead {
                    vcpu: *vcpu,
                    reserved: 0,
                };
                self.parts(part.kind(), &[head.as_bytes(), state])
            }
            Record::SharedInfo(page) => self.whole(Kind::SharedInfo, &page[..]),
            Record::Tsc(info) => self.whole(Kind::TscInfo, info),
            Record::StaticDataEnd => self.parts(Kind::StaticDataEnd, &[]),
            Record::CpuidPolicy(leaves) => self.whole(Kind::CpuidPolicy, &leaves[..]),
            Record::MsrPolicy(msrs) => self.whole(Kind::MsrPolicy, &msrs[..]),
            Record::Verify => self.parts(Kind::Verify, &[]),
            Record::End => self.parts(Kind::End, &[]),
            // Nothing is lost by leaving it out.
            Record::Optional(_) => Ok(()),
        }
    }

    /// Writes a `PAGE_DATA` record; nothing if there is no page.
    pub fn pages(&mut self, pages: &Pages) -> Result<()> {
        let Ok(count) = u32::try_from(pages.pages.len()) else {
            return Err(Error::record(Kind::PageData.name(), "too many pages"));
        };
        if count == 0 {
            return Ok(());
        }
        let numbers: Vec<u64> = pages
            .pages
            .iter()
            .map(|&(pfn, kind)| u64::from(kind.bits()) << 60 | pfn.0)
            .collect();
        let head = [count, 0];
        self.parts(
            Kind::PageData,
            &[head.as_bytes(), numbers.as_bytes(), &pages.data],
        )
    }
}
