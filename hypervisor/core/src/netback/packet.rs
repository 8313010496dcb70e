//! A frame on its way: headers in our own memory, the rest where it lies.
//!
//! The first [`HEAD_SIZE`] bytes are copied once, and what was decided by them is what is
//! sent; the rest is looked at by nobody but its receiver. It lies in a guest's granted
//! frames or in a device's buffers and may change at any time.

use overcast_drivers::Segment;
use overcast_drivers::net::{Offload, PartialChecksum, Segmentation, SegmentationKind};

use crate::addr::{Mfn, PAGE_SHIFT, PAGE_SIZE};
use crate::machine::{Frame, Memory};
use crate::switch::MacAddress;

/// Bytes of a frame that are copied before anything is decided: all headers up to TCP's
/// options, with room for tags and extension headers.
pub const HEAD_SIZE: usize = 256;
/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;
/// The most bytes of a frame, headers included.
pub const MAX_LENGTH: usize = 0xffff + ETHERNET_HEADER + 4;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// A frame of `length` bytes: `head_length` bytes of `head`, then the bytes of `segments` from
/// `skip` on. The segments hold all of it, the head's bytes as well.
#[derive(Clone)]
pub struct Packet<'a> {
    pub head: [u8; HEAD_SIZE],
    pub head_length: usize,
    pub segments: &'a [Segment],
    pub skip: usize,
    pub length: usize,
    pub offload: Offload,
}

/// Walks along segments, frame by frame.
#[derive(Clone)]
pub struct Cursor<'a> {
    segments: &'a [Segment],
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// From byte `skip` of the segments on.
    pub fn new(segments: &'a [Segment], skip: usize) -> Self {
        let mut cursor = Self {
            segments,
            offset: skip,
        };
        cursor.settle();
        cursor
    }

    fn settle(&mut self) {
        while let Some((first, rest)) = self.segments.split_first()
            && self.offset >= first.length as usize
        {
            self.offset -= first.length as usize;
            self.segments = rest;
        }
    }

    /// The next bytes that lie in one segment, at most `limit` of them.
    pub fn next_segment(&mut self, limit: usize) -> Option<Segment> {
        let first = self.segments.first()?;
        let length = (first.length as usize - self.offset).min(limit);
        let address = first.address.checked_add(self.offset as u64)?;
        self.offset += length;
        self.settle();
        Some(Segment {
            address,
            length: length as u32,
        })
    }

    /// The next bytes that lie in one frame of memory, at most `limit`: frame, offset, count.
    fn next_piece(&mut self, limit: usize) -> Option<(Mfn, usize, usize)> {
        let first = self.segments.first()?;
        let address = first.address.checked_add(self.offset as u64)?;
        let at = (address % PAGE_SIZE as u64) as usize;
        let length = (first.length as usize - self.offset)
            .min(limit)
            .min(PAGE_SIZE - at);
        self.offset += length;
        self.settle();
        Some((Mfn(address >> PAGE_SHIFT), at, length))
    }

    /// Copies the next `length` bytes into a frame of memory, which has room for them; gives
    /// how many there were. `None` if they are no RAM.
    pub fn copy<M: Memory>(
        &mut self,
        memory: &M,
        to: &Frame,
        at: usize,
        length: usize,
    ) -> Option<usize> {
        let mut done = 0;
        while done < length {
            let Some((mfn, from, count)) = self.next_piece(length - done) else {
                break;
            };
            to.copy_bytes(at + done, memory.frame(mfn)?, from, count);
            done += count;
        }
        Some(done)
    }

    /// Copies the next bytes out; `None` if there are not so many, or they are no RAM.
    pub fn read<M: Memory>(&mut self, memory: &M, out: &mut [u8]) -> Option<()> {
        let mut out = out;
        while !out.is_empty() {
            let (mfn, at, length) = self.next_piece(out.len())?;
            let (now, rest) = out.split_at_mut_checked(length)?;
            memory.frame(mfn)?.read(at, now);
            out = rest;
        }
        Some(())
    }
}

impl<'a> Packet<'a> {
    /// The frame of `length` bytes in the segments, of which the head is read now.
    /// `None` if it is too short, too long, or not in RAM.
    pub fn read<M: Memory>(
        memory: &M,
        segments: &'a [Segment],
        length: usize,
        offload: Offload,
    ) -> Option<Self> {
        if !(ETHERNET_HEADER..=MAX_LENGTH).contains(&length) {
            return None;
        }
        let mut head = [0; HEAD_SIZE];
        let head_length = length.min(HEAD_SIZE);
        Cursor::new(segments, 0).read(memory, head.get_mut(..head_length)?)?;
        Some(Self {
            head,
            head_length,
            segments,
            skip: head_length,
            length,
            offload,
        })
    }

    /// The same frame, the rest of which is in other segments.
    pub fn with_segments<'b>(&self, segments: &'b [Segment]) -> Packet<'b> {
        Packet {
            head: self.head,
            head_length: self.head_length,
            segments,
            skip: self.skip,
            length: self.length,
            offload: self.offload,
        }
    }

    /// What was copied of it.
    pub fn head(&self) -> &[u8] {
        self.head.get(..self.head_length).unwrap_or_default()
    }

    /// Bytes beyond the head.
    pub fn rest_length(&self) -> usize {
        self.length.saturating_sub(self.head_length)
    }

    /// Where the bytes beyond the head are.
    pub fn rest(&self) -> Cursor<'a> {
        Cursor::new(self.segments, self.skip)
    }

    /// Whom it is for.
    pub fn destination(&self) -> MacAddress {
        MacAddress(array(&self.head, 0))
    }

    /// Who sent it.
    pub fn source(&self) -> MacAddress {
        MacAddress(array(&self.head, 6))
    }

    /// Its headers, if it is TCP or UDP and no fragment.
    pub fn headers(&self) -> Option<Headers> {
        Headers::parse(self.head())
    }

    /// A number that is the same for all frames of a connection in one direction.
    pub fn flow_hash(&self) -> u32 {
        let mut hash = 0x811c_9dc5u32;
        let mut add = |bytes: &[u8]| {
            for &byte in bytes {
                hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            }
        };
        match self.headers() {
            Some(headers) => {
                let addresses = headers.addresses();
                add(self.head().get(addresses).unwrap_or_default());
                let ports = headers.transport..headers.transport + 4;
                add(self.head().get(ports).unwrap_or_default());
            }
            None => add(self.head().get(..12).unwrap_or_default()),
        }
        hash ^ hash >> 16
    }

    /// Sets up the partial checksum as who sent the frame means it: over TCP's or UDP's
    /// part of it. With `fill` the sum of the pseudo-header is put there as well.
    /// `None` if it is neither.
    pub fn set_partial(&mut self, fill: bool) -> Option<()> {
        let headers = self.headers()?;
        let at = headers.checksum()?;
        if at + 2 > self.head_length {
            return None;
        }
        if fill {
            let sum = headers.pseudo_sum(&self.head, self.length.checked_sub(headers.transport)?);
            put16(&mut self.head, at, fold(sum));
        }
        self.offload.checksum = Some(PartialChecksum {
            start: headers.transport as u16,
            offset: (at - headers.transport) as u16,
        });
        Some(())
    }

    /// Whether the checksum that is to be completed is where a frontend will look for it.
    pub fn partial_is_usual(&self) -> bool {
        self.offload.checksum.is_none_or(|partial| {
            self.headers().is_some_and(|headers| {
                usize::from(partial.start) == headers.transport
                    && headers.checksum() == Some(headers.transport + usize::from(partial.offset))
            })
        })
    }

    /// Completes a partial checksum. `None` if that is not possible: it lies beyond the
    /// head, or memory is no RAM.
    pub fn complete<M: Memory>(&mut self, memory: &M) -> Option<()> {
        let Some(partial) = self.offload.checksum else {
            return Some(());
        };
        let start = usize::from(partial.start);
        let at = start.checked_add(usize::from(partial.offset))?;
        if at + 2 > self.head_length || start >= self.length {
            return None;
        }
        let mut sum = Sum::default();
        sum.add(self.head().get(start..)?);
        let mut rest = self.rest();
        let mut left = self.rest_length();
        let mut buffer = [0; 512];
        while left > 0 {
            let part = buffer.get_mut(..left.min(512))?;
            rest.read(memory, part)?;
            sum.add(part);
            left -= part.len();
        }
        let value = !fold(sum.value());
        // UDP's 0 means that there is none.
        let udp = self
            .headers()
            .is_some_and(|headers| headers.protocol == PROTOCOL_UDP);
        put16(
            &mut self.head,
            at,
            if udp && value == 0 { 0xffff } else { value },
        );
        self.offload.checksum = None;
        self.offload.checksum_valid = true;
        Some(())
    }

    /// The pieces of a frame that is to be cut, from payload byte `from` on. `None` if it
    /// is no TCP frame of the kind that it is said to be.
    pub fn pieces(&self, segmentation: Segmentation, from: usize) -> Option<Pieces<'_, 'a>> {
        let headers = self.headers()?;
        let kind = match segmentation.kind {
            SegmentationKind::Tcp4 => !headers.v6,
            SegmentationKind::Tcp6 => headers.v6,
        };
        let payload = headers.tcp_payload(&self.head)?;
        if !kind || segmentation.size == 0 || payload > self.head_length || payload > self.length {
            return None;
        }
        Some(Pieces {
            packet: self,
            headers,
            payload,
            size: usize::from(segmentation.size),
            at: from,
        })
    }
}

/// The frames that one is cut into.
pub struct Pieces<'p, 'a> {
    packet: &'p Packet<'a>,
    headers: Headers,
    /// Where the payload begins.
    payload: usize,
    size: usize,
    at: usize,
}

impl Pieces<'_, '_> {
    /// The payload byte with which the next piece begins.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Bytes of headers that each piece has.
    pub fn header_length(&self) -> usize {
        self.payload
    }

    /// Whether there is more than one.
    pub fn is_several(&self) -> bool {
        self.packet.length - self.payload > self.size
    }

    /// Whether the TCP header has the bit CWR.
    pub fn reduced_window(&self) -> bool {
        let flags = self.packet.head.get(self.headers.transport + 13);
        flags.is_some_and(|flags| flags & 0x80 != 0)
    }
}

impl<'a> Iterator for Pieces<'_, 'a> {
    type Item = Packet<'a>;

    fn next(&mut self) -> Option<Packet<'a>> {
        let all = self.packet.length - self.payload;
        if self.at >= all {
            return None;
        }
        let length = self.size.min(all - self.at);
        let first = self.at == 0;
        let last = self.at + length == all;
        let mut piece = self.packet.clone();
        // The payload in the head is read again from where it lies.
        piece.head_length = self.payload;
        piece.skip = self.payload + self.at;
        piece.length = self.payload + length;
        piece.offload.segmentation = None;
        let headers = &self.headers;
        let number = (self.at / self.size) as u16;
        if headers.v6 {
            let payload = piece.length - headers.network - 40;
            put16(&mut piece.head, headers.network + 4, payload as u16);
        } else {
            let total = piece.length - headers.network;
            put16(&mut piece.head, headers.network + 2, total as u16);
            let id = be16(&piece.head, headers.network + 4).wrapping_add(number);
            put16(&mut piece.head, headers.network + 4, id);
            put16(&mut piece.head, headers.network + 10, 0);
            let mut sum = Sum::default();
            sum.add(piece.head.get(headers.network..headers.ip_end)?);
            put16(&mut piece.head, headers.network + 10, !fold(sum.value()));
        }
        let tcp = headers.transport;
        let sequence = u32::from_be_bytes(array(&piece.head, tcp + 4)).wrapping_add(self.at as u32);
        piece
            .head
            .get_mut(tcp + 4..tcp + 8)?
            .copy_from_slice(&sequence.to_be_bytes());
        let flags = piece.head.get_mut(tcp + 13)?;
        if !first {
            // CWR.
            *flags &= !0x80;
        }
        if !last {
            // FIN and PSH.
            *flags &= !0x09;
        }
        piece.set_partial(true)?;
        self.at += length;
        Some(piece)
    }
}

/// Where the headers of a TCP or UDP frame are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Whether it is IPv6.
    pub v6: bool,
    /// Where the IP header begins.
    pub network: usize,
    /// Where IPv4's ends.
    ip_end: usize,
    /// Where TCP's or UDP's begins.
    pub transport: usize,
    /// Which of them it is.
    pub protocol: u8,
}

impl Headers {
    fn parse(head: &[u8]) -> Option<Self> {
        let mut network = ETHERNET_HEADER;
        let mut ethertype = get16(head, 12)?;
        for _ in 0..2 {
            if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
                ethertype = get16(head, network + 2)?;
                network += 4;
            }
        }
        let (v6, ip_end, transport, protocol) = match ethertype {
            ETHERTYPE_IPV4 => {
                let first = *head.get(network)?;
                let length = usize::from(first & 15) * 4;
                // Neither the first of several fragments nor another.
                if first >> 4 != 4 || length < 20 || get16(head, network + 6)? & 0x3fff != 0 {
                    return None;
                }
                let end = network + length;
                (false, end, end, *head.get(network + 9)?)
            }
            ETHERTYPE_IPV6 => {
                if *head.get(network)? >> 4 != 6 {
                    return None;
                }
                let mut next = *head.get(network + 6)?;
                let mut at = network + 40;
                // Hop-by-hop, routing and destination options.
                while matches!(next, 0 | 43 | 60) {
                    let length = (usize::from(*head.get(at + 1)?) + 1) * 8;
                    next = *head.get(at)?;
                    at += length;
                }
                (true, network + 40, at, next)
            }
            _ => return None,
        };
        let known = matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP);
        (known && transport + 8 <= head.len()).then_some(Self {
            v6,
            network,
            ip_end,
            transport,
            protocol,
        })
    }

    fn addresses(&self) -> core::ops::Range<usize> {
        if self.v6 {
            self.network + 8..self.network + 40
        } else {
            self.network + 12..self.network + 20
        }
    }

    /// Where the checksum is.
    fn checksum(&self) -> Option<usize> {
        Some(match self.protocol {
            PROTOCOL_TCP => self.transport + 16,
            PROTOCOL_UDP => self.transport + 6,
            _ => return None,
        })
    }

    /// Where TCP's payload begins.
    fn tcp_payload(&self, head: &[u8]) -> Option<usize> {
        let length = usize::from(*head.get(self.transport + 12)? >> 4) * 4;
        (self.protocol == PROTOCOL_TCP && length >= 20).then_some(self.transport + length)
    }

    /// The sum over the pseudo-header, for so many bytes of TCP or UDP.
    fn pseudo_sum(&self, head: &[u8], length: usize) -> u64 {
        let mut sum = Sum::default();
        sum.add(head.get(self.addresses()).unwrap_or_default());
        sum.value() + u64::from(self.protocol) + length as u64
    }
}

/// A sum of 16-bit words (RFC 1071) over bytes that come in parts. It is the same, with its
/// bytes swapped, in either order of bytes (section 2), so the machine's is used.
#[derive(Default)]
struct Sum {
    /// Of words in the machine's order; of pairs of them too, which fold to the same.
    total: u64,
    /// Whether an odd number of bytes came.
    odd: bool,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let mut part = 0u64;
        // A carry out of 64 bits counts as one, as one out of 16 does.
        let mut add = |word: u64| {
            let (sum, carry) = part.overflowing_add(word);
            part = sum.wrapping_add(carry.into());
        };
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            add(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        if let Some(place) = last.get_mut(..rest.len()) {
            place.copy_from_slice(rest);
        }
        add(u64::from_le_bytes(last));
        // What comes after an odd number of bytes is one byte off.
        let part = u64::from(fold(part));
        self.total += if self.odd { part << 8 } else { part };
        self.odd ^= !bytes.len().is_multiple_of(2);
    }

    /// The sum as a number, to which others may be added.
    fn value(&self) -> u64 {
        fold(self.total).swap_bytes().into()
    }
}

/// A sum in 16 bits.
fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|bytes| bytes.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

fn get16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk::<2>()
        .map(|bytes| u16::from_be_bytes(*bytes))
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}
