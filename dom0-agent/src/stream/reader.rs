//! Reads libxc's stream: each record checked for itself, whatever its order.

use std::io::Read;

use xen_abi::arch_x86::{CpuidLeaf, MsrEntry, VcpuGuestContext};
use xen_abi::domctl::{DomctlExtVcpucontext, DomctlVcpuMsr};
use zerocopy::FromBytes;

use super::record::*;
use super::*;

/// The image header and the domain header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Version of the stream: 2 or 3.
    pub version: u32,
    /// Version of the Xen that wrote it: major, minor. Major 0: a converted legacy stream.
    pub xen: (u32, u32),
}

/// Leaves or MSRs of a CPU policy: more are not believed.
const MAX_POLICY: usize = 16 << 10;
/// MSRs of a vCPU.
const MAX_MSRS: usize = 4 << 10;
/// Bytes of a vCPU's `XSAVE` record: the area is 2.6 KiB with AVX-512, 11 KiB with AMX.
const MAX_XSAVE: usize = 64 << 10;
/// Bytes of the head of a `PAGE_DATA` record.
const PAGES_HEAD: usize = 8;
/// Frames that a frame of the guest's list tells of.
const PER_FRAME: u64 = 512;
/// Bits of a page's number in `PAGE_DATA`.
const PFN_BITS: u64 = (1 << 52) - 1;

/// Reads records.
pub struct Reader<R> {
    from: R,
    limits: Limits,
    header: Header,
    body: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the headers.
    ///
    /// # Errors
    /// `Header` if it is no stream of an x86 PV guest, in a version that is understood.
    pub fn new(mut from: R, limits: Limits) -> Result<Self> {
        const IMAGE: &str = "image header";
        const DOMAIN: &str = "domain header";
        let marker: [u8; 8] = read_array(&mut from, IMAGE)?;
        if u64::from_be_bytes(marker) != MARKER {
            return Err(Error::header(
                IMAGE,
                "this is no domain of Xen 4.6 or later",
            ));
        }
        let id: [u8; 4] = read_array(&mut from, IMAGE)?;
        if u32::from_be_bytes(id) != ID {
            return Err(Error::header(IMAGE, "the identification is not XENF"));
        }
        let version = u32::from_be_bytes(read_array(&mut from, IMAGE)?);
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(Error::header(
                IMAGE,
                format!("version {version} is not known; {OLDEST} and {VERSION} are"),
            ));
        }
        let options: [u8; 8] = read_array(&mut from, IMAGE)?;
        if options[1] & 1 != 0 {
            return Err(Error::header(IMAGE, "big endian"));
        }
        let head: [u8; 16] = read_array(&mut from, DOMAIN)?;
        let word = |at: usize| le32(&head, at);
        match word(0) {
            TYPE_X86_PV => {}
            TYPE_X86_HVM => {
                return Err(Error::header(
                    DOMAIN,
                    "an HVM guest; only PV guests run here",
                ));
            }
            other => return Err(Error::header(DOMAIN, format!("unknown type {other:#x}"))),
        }
        let shift = u16::from_le_bytes([head[4], head[5]]);
        if shift != 12 {
            return Err(Error::header(DOMAIN, format!("pages of 2^{shift} bytes")));
        }
        Ok(Self {
            from,
            limits,
            header: Header {
                version,
                xen: (word(8), word(12)),
            },
            body: Vec::new(),
        })
    }

    /// The headers.
    pub fn header(&self) -> Header {
        self.header
    }

    /// What follows the stream, once `END` was read.
    pub fn into_inner(self) -> R {
        self.from
    }

    /// The next record.
    ///
    /// # Errors
    /// `Record` with its name if it is wrong, `Truncated`.
    pub fn record(&mut self) -> Result<Record> {
        let head: [u8; 8] = read_array(&mut self.from, "a record's header")?;
        let (number, length) = (le32(&head, 0), le32(&head, 4) as usize);
        if number & OPTIONAL != 0 {
            // Passed over without keeping it.
            let padded = (length as u64).next_multiple_of(8);
            let passed = std::io::copy(
                &mut Read::take(&mut self.from, padded),
                &mut std::io::sink(),
            )?;
            if passed < padded {
                return Err(Error::Truncated("an optional record"));
            }
            return Ok(Record::Optional(number));
        }
        let Some(kind) = Kind::new(number) else {
            return Err(Error::record(
                "unknown",
                format!("mandatory type {number:#x}"),
            ));
        };
        let most = self.longest(kind)?;
        if length > most {
            return Err(Error::record(
                kind.name(),
                format!("{length} bytes; at most {most} are taken"),
            ));
        }
        let padded = length.next_multiple_of(8);
        read_body(&mut self.from, padded, &mut self.body, kind.name())?;
        self.body.truncate(length);
        self.parse(kind)
    }

    /// The most bytes that a record of a kind may have.
    fn longest(&self, kind: Kind) -> Result<usize> {
        let vcpu = |state: usize| size_of::<VcpuHead>() + state;
        Ok(match kind {
            Kind::End | Kind::StaticDataEnd | Kind::Verify => 0,
            Kind::PageData => PAGES_HEAD + MAX_BATCH * (8 + PAGE_SIZE),
            Kind::PvInfo => size_of::<PvInfo>(),
            Kind::PvP2mFrames => 8 + (self.limits.max_pfn / PER_FRAME + 1) as usize * 8,
            Kind::PvVcpuBasic => vcpu(size_of::<VcpuGuestContext>()),
            Kind::PvVcpuExtended => vcpu(128),
            Kind::PvVcpuXsave => vcpu(MAX_XSAVE),
            Kind::PvVcpuMsrs => vcpu(MAX_MSRS * size_of::<DomctlVcpuMsr>()),
            Kind::SharedInfo => PAGE_SIZE,
            Kind::TscInfo => size_of::<TscInfo>(),
            Kind::CpuidPolicy => MAX_POLICY * size_of::<CpuidLeaf>(),
            Kind::MsrPolicy => MAX_POLICY * size_of::<MsrEntry>(),
            Kind::HvmContext | Kind::HvmParams => {
                return Err(Error::record(
                    kind.name(),
                    "of an HVM guest, in a PV guest's stream",
                ));
            }
            Kind::Toolstack => return Err(Error::record(kind.name(), "not used since Xen 4.6")),
            Kind::Checkpoint | Kind::CheckpointDirtyPfnList => {
                return Err(Error::record(
                    kind.name(),
                    "checkpointed streams are not supported",
                ));
            }
        })
    }

    fn parse(&mut self, kind: Kind) -> Result<Record> {
        let wrong = |why: String| Err(Error::record(kind.name(), why));
        let body = &self.body[..];
        let size = |expected: usize| match body.len() == expected {
            true => Ok(()),
            false => Err(Error::record(
                kind.name(),
                format!("{} bytes, not {expected}", body.len()),
            )),
        };
        Ok(match kind {
            Kind::End => Record::End,
            Kind::StaticDataEnd => Record::StaticDataEnd,
            Kind::Verify => Record::Verify,
            Kind::PageData => Record::Pages(self.pages()?),
            Kind::PvInfo => {
                let Ok(info) = PvInfo::read_from_bytes(body) else {
                    return wrong(format!("{} bytes, not 8", body.len()));
                };
                match (info.width, info.levels) {
                    (8, 4) => Record::PvInfo,
                    (4, 3) => return wrong("a 32-bit guest; only 64-bit guests run here".into()),
                    (width, levels) => {
                        return wrong(format!("width {width} with {levels} levels of page tables"));
                    }
                }
            }
            Kind::PvP2mFrames => self.p2m_frames()?,
            Kind::PvVcpuBasic => self.vcpu(VcpuPart::Basic)?,
            Kind::PvVcpuExtended => self.vcpu(VcpuPart::Extended)?,
            Kind::PvVcpuXsave => self.vcpu(VcpuPart::Xsave)?,
            Kind::PvVcpuMsrs => self.vcpu(VcpuPart::Msrs)?,
            Kind::SharedInfo => {
                size(PAGE_SIZE)?;
                let mut page = Box::new([0; PAGE_SIZE]);
                page.copy_from_slice(body);
                Record::SharedInfo(page)
            }
            Kind::TscInfo => {
                size(size_of::<TscInfo>())?;
                Record::Tsc(TscInfo::read_from_bytes(body).unwrap_or_default())
            }
            Kind::CpuidPolicy => Record::CpuidPolicy(items(kind, body)?),
            Kind::MsrPolicy => Record::MsrPolicy(items(kind, body)?),
            Kind::HvmContext
            | Kind::HvmParams
            | Kind::Toolstack
            | Kind::Checkpoint
            | Kind::CheckpointDirtyPfnList => return wrong("not expected".into()),
        })
    }

    fn pages(&self) -> Result<Pages> {
        let wrong = |why: String| Error::record(Kind::PageData.name(), why);
        let Some((head, rest)) = self.body.split_first_chunk::<PAGES_HEAD>() else {
            return Err(wrong(format!("{} bytes", self.body.len())));
        };
        let count = le32(head, 0) as usize;
        if count == 0 || count > MAX_BATCH {
            return Err(wrong(format!("{count} pages; 1 to {MAX_BATCH} are taken")));
        }
        let Some((numbers, data)) = rest.split_at_checked(count * 8) else {
            return Err(wrong(format!("too short for the numbers of {count} pages")));
        };
        let mut pages = Vec::with_capacity(count);
        for number in numbers.chunks_exact(8) {
            let number = number.try_into().map_or(0, u64::from_le_bytes);
            let pfn = Pfn(number & PFN_BITS);
            if number >> 52 & 0xff != 0 {
                return Err(wrong(format!("reserved bits in {number:#x}")));
            }
            if pfn.0 > self.limits.max_pfn {
                return Err(wrong(format!(
                    "frame {:#x}; the highest that is taken is {:#x}",
                    pfn.0, self.limits.max_pfn
                )));
            }
            let bits = (number >> 60) as u8;
            let kind = PageType::new(bits).ok_or_else(|| {
                wrong(format!("frame {:#x} has the unknown type {bits:#x}", pfn.0))
            })?;
            pages.push((pfn, kind));
        }
        let expected = pages.iter().filter(|(_, kind)| kind.has_data()).count() * PAGE_SIZE;
        if data.len() != expected {
            return Err(wrong(format!(
                "{} bytes of contents, not {expected}",
                data.len()
            )));
        }
        Ok(Pages {
            pages,
            data: data.to_vec(),
        })
    }

    fn p2m_frames(&self) -> Result<Record> {
        let wrong = |why: String| Error::record(Kind::PvP2mFrames.name(), why);
        let Some((head, rest)) = self.body.split_first_chunk::<8>() else {
            return Err(wrong(format!("{} bytes", self.body.len())));
        };
        let (start, end) = (u64::from(le32(head, 0)), u64::from(le32(head, 4)));
        if start > end {
            return Err(wrong(format!("from frame {start:#x} to {end:#x}")));
        }
        if end > self.limits.max_pfn {
            return Err(wrong(format!(
                "up to frame {end:#x}; the highest that is taken is {:#x}",
                self.limits.max_pfn
            )));
        }
        let expected = (end / PER_FRAME - start / PER_FRAME + 1) * 8;
        if rest.len() as u64 != expected {
            return Err(wrong(format!(
                "{} bytes of frame numbers, not {expected}",
                rest.len()
            )));
        }
        let frames = rest
            .chunks_exact(8)
            .map(|frame| Pfn(frame.try_into().map_or(0, u64::from_le_bytes)))
            .collect();
        Ok(Record::P2mFrames {
            start: Pfn(start),
            end: Pfn(end),
            frames,
        })
    }

    fn vcpu(&self, part: VcpuPart) -> Result<Record> {
        let wrong = |why: String| Error::record(part.kind().name(), why);
        let Ok((head, state)) = VcpuHead::read_from_prefix(&self.body) else {
            return Err(wrong(format!("{} bytes", self.body.len())));
        };
        let vcpu = head.vcpu;
        // Some releases wrote empty ones (errata of the specification).
        if !state.is_empty() {
            if vcpu >= self.limits.max_vcpus {
                return Err(wrong(format!(
                    "of vCPU {vcpu}; the domain has {}",
                    self.limits.max_vcpus
                )));
            }
            let fits = match part {
                VcpuPart::Basic => state.len() == size_of::<VcpuGuestContext>(),
                // Shorter ones come from older releases.
                VcpuPart::Extended => state.len() >= 8 && state.len() <= 128,
                VcpuPart::Xsave => state.len() >= 16,
                VcpuPart::Msrs => state.len().is_multiple_of(size_of::<DomctlVcpuMsr>()),
            };
            if !fits {
                return Err(wrong(format!("{} bytes of state", state.len())));
            }
        }
        let mut state = state.to_vec();
        if part == VcpuPart::Extended && !state.is_empty() {
            state.resize(size_of::<DomctlExtVcpucontext>(), 0);
        }
        Ok(Record::Vcpu { vcpu, part, state })
    }
}

/// The items of a record that is nothing but an array.
fn items<T: FromBytes>(kind: Kind, body: &[u8]) -> Result<Vec<T>> {
    if body.is_empty() || !body.len().is_multiple_of(size_of::<T>()) {
        return Err(Error::record(
            kind.name(),
            format!("{} bytes, no multiple of {}", body.len(), size_of::<T>()),
        ));
    }
    Ok(body
        .chunks_exact(size_of::<T>())
        .filter_map(|item| T::read_from_bytes(item).ok())
        .collect())
}

/// A little-endian number; 0 beyond the end.
fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |&word| u32::from_le_bytes(word))
}
