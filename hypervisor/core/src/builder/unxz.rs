//! Unpacking xz as Linux kernels are packed with it: one block, of LZMA2 with or
//! without the filter for x86 code, with a CRC32.
//!
//! The library does all of xz; but unpacking is the longest part of a boot, and
//! when the whole output is one buffer there needs to be no window beside it, so
//! this takes two thirds of the time and no memory. Whatever it does not
//! know or finds wrong is left to the library.
//!
//! Format: <https://tukaani.org/xz/xz-file-format.txt>, and the LZMA specification
//! of the LZMA SDK.

use alloc::boxed::Box;

const FILTER_X86: u64 = 4;
const FILTER_LZMA2: u64 = 0x21;
const CHECK_CRC32: u8 = 1;
const STREAM_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
const FOOTER_MAGIC: [u8; 2] = *b"YZ";

/// Unpacks a stream; gives how many bytes it has, or `None` if it is damaged or
/// of a kind that is not done here. `out` may be changed in any case.
pub fn unxz(stream: &[u8], out: &mut [u8]) -> Option<usize> {
    let (header, rest) = stream.split_first_chunk::<12>()?;
    let [0, CHECK_CRC32] = header[6..8] else {
        return None;
    };
    if header[..6] != STREAM_MAGIC || crc32fast::hash(&header[6..8]) != u32_at(header, 8)? {
        return None;
    }

    let header_size = (usize::from(*rest.first()?) + 1) * 4;
    let (block, data) = rest.split_at_checked(header_size)?;
    let x86 = block_header(block)?;
    let (packed, written) = lzma2(data, out)?;
    let unpacked = out.get_mut(..written)?;
    if x86 {
        x86_filter(unpacked);
    }
    let padding = packed.next_multiple_of(4);
    if data.get(packed..padding)?.iter().any(|&byte| byte != 0)
        || crc32fast::hash(unpacked) != u32_at(data, padding)?
    {
        return None;
    }

    // The index: one record, with the sizes of the block without its padding.
    let index = data.get(padding + 4..)?;
    let mut at = 0;
    let record = [
        number(index, &mut at)?,
        number(index, &mut at)?,
        number(index, &mut at)?,
        number(index, &mut at)?,
    ];
    if record != [0, 1, (header_size + packed + 4) as u64, written as u64] {
        return None;
    }
    let end = at.next_multiple_of(4);
    if index.get(at..end)?.iter().any(|&byte| byte != 0)
        || crc32fast::hash(index.get(..end)?) != u32_at(index, end)?
    {
        return None;
    }
    let footer = index.get(end + 4..)?.first_chunk::<12>()?;
    let good = crc32fast::hash(&footer[4..10]) == u32_at(footer, 0)?
        && u32_at(footer, 4)? as usize == end / 4
        && footer[8..10] == header[6..8]
        && footer[10..] == FOOTER_MAGIC;
    good.then_some(written)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let chunk = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*chunk))
}

/// A number of 7 bits a byte, the lowest first.
fn number(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Reads a block's header; says whether the filter for x86 code is to be undone.
fn block_header(block: &[u8]) -> Option<bool> {
    const SIZES: u8 = 0xc0;
    let end = block.len().checked_sub(4)?;
    let fields = block.get(..end)?;
    if crc32fast::hash(fields) != u32_at(block, end)? {
        return None;
    }
    let flags = *fields.get(1)?;
    if flags & SIZES != 0 {
        return None;
    }
    let mut at = 2;
    let x86 = match flags {
        0 => false,
        1 => {
            // Without a property: it starts at offset 0.
            if [number(fields, &mut at)?, number(fields, &mut at)?] != [FILTER_X86, 0] {
                return None;
            }
            true
        }
        _ => return None,
    };
    if [number(fields, &mut at)?, number(fields, &mut at)?] != [FILTER_LZMA2, 1] {
        return None;
    }
    // The size of the dictionary does not matter: all of the output is there.
    let padding = fields.get(at + 1..)?;
    padding.iter().all(|&byte| byte == 0).then_some(x86)
}

/// Unpacks chunks of LZMA2; gives how many bytes were read and written.
fn lzma2(data: &[u8], out: &mut [u8]) -> Option<(usize, usize)> {
    let mut decoder = Box::new(Decoder::new());
    let (mut at, mut position) = (0, 0);
    // What the next chunk must bring.
    let (mut needs_dictionary, mut needs_properties) = (true, true);
    loop {
        let control = *data.get(at)?;
        at += 1;
        if control == 0 {
            return Some((at, position));
        }
        let [high, low] = *data.get(at..)?.first_chunk::<2>()?;
        at += 2;
        let size = usize::from(u16::from_be_bytes([high, low])) + 1;
        if control >= 0xe0 || control == 1 {
            needs_dictionary = false;
            needs_properties = true;
            decoder.start = position;
        } else if needs_dictionary {
            return None;
        }
        if control < 0x80 {
            if control > 2 {
                return None;
            }
            let chunk = data.get(at..at + size)?;
            out.get_mut(position..position + size)?
                .copy_from_slice(chunk);
            at += size;
            position += size;
            continue;
        }
        let size = (usize::from(control & 0x1f) << 16) + size;
        let [high, low] = *data.get(at..)?.first_chunk::<2>()?;
        at += 2;
        let packed = usize::from(u16::from_be_bytes([high, low])) + 1;
        if control >= 0xc0 {
            decoder.set_properties(*data.get(at)?)?;
            at += 1;
            needs_properties = false;
        } else if needs_properties {
            return None;
        }
        if control >= 0xa0 {
            decoder.reset();
        }
        let end = position.checked_add(size)?;
        decoder.chunk(data.get(at..at + packed)?, out.get_mut(..end)?, position)?;
        at += packed;
        position = end;
    }
}

/// The bits of the model's probabilities.
const MODEL_BITS: u32 = 11;
const MODEL_START: u16 = 1 << (MODEL_BITS - 1);
const MOVE_BITS: u32 = 5;
/// Below this, the range takes in another byte.
const TOP: u32 = 1 << 24;

/// The range decoder, over one chunk.
struct RangeDecoder<'a> {
    input: &'a [u8],
    /// Of the next byte; beyond the end, zeros are read, and the chunk is bad.
    at: usize,
    range: u32,
    code: u32,
}

impl<'a> RangeDecoder<'a> {
    fn new(input: &'a [u8]) -> Option<Self> {
        let (&[0, a, b, c, d], _) = input.split_first_chunk::<5>()? else {
            return None;
        };
        Some(Self {
            input,
            at: 5,
            range: u32::MAX,
            code: u32::from_be_bytes([a, b, c, d]),
        })
    }

    #[inline(always)]
    fn normalize(&mut self) {
        if self.range < TOP {
            let byte = self.input.get(self.at).copied().unwrap_or(0);
            self.at = self.at.wrapping_add(1);
            self.range <<= 8;
            self.code = self.code << 8 | u32::from(byte);
        }
    }

    #[inline(always)]
    fn bit(&mut self, probability: &mut u16) -> bool {
        self.normalize();
        let p = u32::from(*probability);
        let bound = (self.range >> MODEL_BITS).wrapping_mul(p);
        if self.code < bound {
            self.range = bound;
            *probability = p.wrapping_add((1u32 << MODEL_BITS).wrapping_sub(p) >> MOVE_BITS) as u16;
            false
        } else {
            self.range = self.range.wrapping_sub(bound);
            self.code = self.code.wrapping_sub(bound);
            *probability = p.wrapping_sub(p >> MOVE_BITS) as u16;
            true
        }
    }

    /// [`Self::bit`], put behind the bits of `symbol`. It is written out in both
    /// cases, as the compiler makes worse of it otherwise.
    #[inline(always)]
    fn append(&mut self, probability: &mut u16, symbol: usize) -> usize {
        self.normalize();
        let p = u32::from(*probability);
        let bound = (self.range >> MODEL_BITS).wrapping_mul(p);
        if self.code < bound {
            self.range = bound;
            *probability = p.wrapping_add((1u32 << MODEL_BITS).wrapping_sub(p) >> MOVE_BITS) as u16;
            symbol << 1
        } else {
            self.range = self.range.wrapping_sub(bound);
            self.code = self.code.wrapping_sub(bound);
            *probability = p.wrapping_sub(p >> MOVE_BITS) as u16;
            symbol << 1 | 1
        }
    }

    /// A number of `log2(N)` bits, the highest first.
    #[inline(always)]
    fn tree<const N: usize>(&mut self, probabilities: &mut [u16; N]) -> usize {
        let mut symbol = 1;
        for _ in 0..N.trailing_zeros() {
            symbol = self.append(&mut probabilities[symbol & (N - 1)], symbol);
        }
        symbol & (N - 1)
    }

    /// A number of `bits` bits, the lowest first, with probabilities from behind `base` on.
    #[inline(always)]
    fn reverse_tree<const N: usize>(
        &mut self,
        probabilities: &mut [u16; N],
        base: usize,
        bits: u32,
    ) -> u32 {
        let (mut symbol, mut value) = (1, 0);
        for n in 0..bits {
            let bit = self.bit(&mut probabilities[base.wrapping_add(symbol) & (N - 1)]);
            symbol = symbol << 1 | usize::from(bit);
            value |= u32::from(bit) << n;
        }
        value
    }

    /// A number of `bits` bits that all are as likely, the highest first.
    #[inline(always)]
    fn direct(&mut self, bits: u32) -> u32 {
        let mut value = 0;
        for _ in 0..bits {
            self.normalize();
            self.range >>= 1;
            let bit = u32::from(self.code >= self.range);
            self.code = self.code.wrapping_sub(self.range & 0u32.wrapping_sub(bit));
            value = value << 1 | bit;
        }
        value
    }
}

/// Probabilities of lengths.
struct Lengths {
    choice: [u16; 2],
    low: [[u16; 8]; 16],
    middle: [[u16; 8]; 16],
    high: [u16; 256],
}

impl Lengths {
    const START: Self = Self {
        choice: [MODEL_START; 2],
        low: [[MODEL_START; 8]; 16],
        middle: [[MODEL_START; 8]; 16],
        high: [MODEL_START; 256],
    };

    /// A length, from 2 on.
    #[inline(always)]
    fn decode(&mut self, rc: &mut RangeDecoder<'_>, position: usize) -> usize {
        let [first, second] = &mut self.choice;
        if !rc.bit(first) {
            2 + rc.tree(&mut self.low[position & 15])
        } else if !rc.bit(second) {
            10 + rc.tree(&mut self.middle[position & 15])
        } else {
            18 + rc.tree(&mut self.high)
        }
    }
}

/// How many states there are; a power of two for the sake of indices.
const STATES: usize = 16;
/// The states below this follow a literal.
const LITERAL_STATES: usize = 7;

/// Probabilities of everything but literals.
struct Model {
    is_match: [[u16; 16]; STATES],
    is_repeat: [u16; STATES],
    is_repeat0: [u16; STATES],
    is_repeat1: [u16; STATES],
    is_repeat2: [u16; STATES],
    is_long_repeat0: [[u16; 16]; STATES],
    slots: [[u16; 64]; 4],
    special: [u16; 128],
    align: [u16; 16],
    match_lengths: Lengths,
    repeat_lengths: Lengths,
}

impl Model {
    const START: Self = Self {
        is_match: [[MODEL_START; 16]; STATES],
        is_repeat: [MODEL_START; STATES],
        is_repeat0: [MODEL_START; STATES],
        is_repeat1: [MODEL_START; STATES],
        is_repeat2: [MODEL_START; STATES],
        is_long_repeat0: [[MODEL_START; 16]; STATES],
        slots: [[MODEL_START; 64]; 4],
        special: [MODEL_START; 128],
        align: [MODEL_START; 16],
        match_lengths: Lengths::START,
        repeat_lengths: Lengths::START,
    };
}

struct Decoder {
    model: Model,
    /// By context: 256 of a literal behind a literal, twice as many of one behind
    /// a match, and some that are not used.
    literals: [[u16; 1024]; 16],
    state: usize,
    /// The last distances, less 1.
    distances: [usize; 4],
    /// Where in the output the dictionary began.
    start: usize,
    literal_context_bits: u32,
    literal_position_mask: usize,
    position_mask: usize,
}

impl Decoder {
    const fn new() -> Self {
        Self {
            model: Model::START,
            literals: [[MODEL_START; 1024]; 16],
            state: 0,
            distances: [0; 4],
            start: 0,
            literal_context_bits: 0,
            literal_position_mask: 0,
            position_mask: 0,
        }
    }

    fn set_properties(&mut self, byte: u8) -> Option<()> {
        let byte = u32::from(byte);
        let (lc, lp, pb) = (byte % 9, byte / 9 % 5, byte / 45);
        if pb > 4 || lc + lp > 4 {
            return None;
        }
        self.literal_context_bits = lc;
        self.literal_position_mask = (1 << lp) - 1;
        self.position_mask = (1 << pb) - 1;
        Some(())
    }

    fn reset(&mut self) {
        self.model = Model::START;
        for context in &mut self.literals {
            context.fill(MODEL_START);
        }
        self.state = 0;
        self.distances = [0; 4];
    }

    /// Unpacks a chunk to `out` from `position` on to its end.
    fn chunk(&mut self, input: &[u8], out: &mut [u8], position: usize) -> Option<()> {
        let mut rc = RangeDecoder::new(input)?;
        let mut at = position;
        let mut state = self.state;
        let [mut d0, mut d1, mut d2, mut d3] = self.distances;
        let model = &mut self.model;
        while at < out.len() {
            let offset = at.wrapping_sub(self.start);
            let place = offset & self.position_mask & 15;
            let s = state & (STATES - 1);
            if !rc.bit(&mut model.is_match[s][place]) {
                let previous = match offset {
                    0 => 0,
                    _ => *out.get(at.wrapping_sub(1))?,
                };
                let context = (offset & self.literal_position_mask) << self.literal_context_bits
                    | usize::from(previous) >> (8 - self.literal_context_bits);
                let probabilities = &mut self.literals[context & 15];
                let mut symbol = 1;
                if state >= LITERAL_STATES {
                    // The byte at the last distance tells what this one is not.
                    let mut other = usize::from(*out.get(at.checked_sub(d0)?.checked_sub(1)?)?);
                    let mut mask = 0x100;
                    for _ in 0..8 {
                        other <<= 1;
                        let index = mask + (other & mask) + symbol;
                        let expected = other & mask;
                        if rc.bit(&mut probabilities[index & 1023]) {
                            symbol = symbol << 1 | 1;
                            mask = expected;
                        } else {
                            symbol <<= 1;
                            mask &= !expected;
                        }
                    }
                } else {
                    for _ in 0..8 {
                        symbol = rc.append(&mut probabilities[symbol & 0xff], symbol);
                    }
                }
                *out.get_mut(at)? = symbol as u8;
                at = at.wrapping_add(1);
                state = match state {
                    0..4 => 0,
                    4..10 => state - 3,
                    _ => state - 6,
                };
                continue;
            }
            let after_literal = state < LITERAL_STATES;
            let length;
            if !rc.bit(&mut model.is_repeat[s]) {
                (d3, d2, d1) = (d2, d1, d0);
                state = if after_literal { 7 } else { 10 };
                length = model.match_lengths.decode(&mut rc, place);
                let slot = rc.tree(&mut model.slots[(length - 2).min(3)]) as u32;
                d0 = if slot < 4 {
                    slot as usize
                } else {
                    let bits = (slot >> 1) - 1;
                    let high = 2 | slot & 1;
                    if slot < 14 {
                        let high = high << bits;
                        let base = high.wrapping_sub(slot).wrapping_sub(1) as usize;
                        (high | rc.reverse_tree(&mut model.special, base, bits)) as usize
                    } else {
                        let high = high << (bits - 4) | rc.direct(bits - 4);
                        (high << 4 | rc.reverse_tree(&mut model.align, 0, 4)) as usize
                    }
                };
            } else {
                if !rc.bit(&mut model.is_repeat0[s]) {
                    if !rc.bit(&mut model.is_long_repeat0[s][place]) {
                        state = if after_literal { 9 } else { 11 };
                        if d0 >= offset {
                            return None;
                        }
                        let byte = *out.get(at.wrapping_sub(d0).wrapping_sub(1))?;
                        *out.get_mut(at)? = byte;
                        at = at.wrapping_add(1);
                        continue;
                    }
                } else if !rc.bit(&mut model.is_repeat1[s]) {
                    (d0, d1) = (d1, d0);
                } else if !rc.bit(&mut model.is_repeat2[s]) {
                    (d0, d1, d2) = (d2, d0, d1);
                } else {
                    (d0, d1, d2, d3) = (d3, d0, d1, d2);
                }
                state = if after_literal { 8 } else { 11 };
                length = model.repeat_lengths.decode(&mut rc, place);
            }
            if d0 >= offset {
                return None;
            }
            at = repeat(out, at, d0.wrapping_add(1), length)?;
        }
        rc.normalize();
        self.state = state;
        self.distances = [d0, d1, d2, d3];
        (rc.code == 0 && rc.at == input.len()).then_some(())
    }
}

/// Copies `length` bytes from `distance` before to `at`, where they may overlap;
/// gives where they end. The distance is not 0, and not beyond the beginning.
#[inline(always)]
fn repeat(out: &mut [u8], at: usize, distance: usize, length: usize) -> Option<usize> {
    let end = at.wrapping_add(length);
    let from = at.wrapping_sub(distance);
    if end > out.len() {
        return None;
    }
    if let Some(room) = out.get_mut(from..end.wrapping_add(8)) {
        // Eight at a time: a few more are written than needed, and again later.
        let mut n = 0;
        if distance >= 8 {
            while n < length {
                let chunk = *room.get(n..)?.first_chunk::<8>()?;
                *room
                    .get_mut(n.wrapping_add(distance)..)?
                    .first_chunk_mut()? = chunk;
                n = n.wrapping_add(8);
            }
            return Some(end);
        }
        // A pattern of a few bytes, over and over: as much of it as is whole.
        let mut chunk = *room.first_chunk::<8>()?;
        for n in distance..8 {
            chunk[n & 7] = chunk[n.wrapping_sub(distance) & 7];
        }
        let step = 8 - 8 % distance;
        let target = room.get_mut(distance..)?;
        while n < length {
            *target.get_mut(n..)?.first_chunk_mut()? = chunk;
            n = n.wrapping_add(step);
        }
        return Some(end);
    }
    let room = out.get_mut(from..end)?;
    for n in 0..length {
        *room.get_mut(n.wrapping_add(distance))? = *room.get(n)?;
    }
    Some(end)
}

/// Undoes the filter for x86 code, which replaces the targets of calls and jumps
/// (E8 and E9) by addresses. `bytes` is a whole block.
fn x86_filter(bytes: &mut [u8]) {
    const SUSPECT: [u32; 8] = [0, 1, 2, 2, 3, 3, 3, 3];
    let Some(end) = bytes.len().checked_sub(4) else {
        return;
    };
    let is_sign = |byte: u8| byte == 0 || byte == 0xff;
    // Opcodes seen within the last bytes, whose operand this one may be a part of:
    // a bit each, the nearest lowest.
    let mut seen = 0u32;
    let mut last = None;
    let mut at = 0;
    while let Some(found) = next_call(bytes, at).filter(|&found| found < end) {
        at = found;
        // How far back the opcode before was; the first is behind none.
        let distance = last.map_or(at.wrapping_add(1), |last| at.wrapping_sub(last));
        last = Some(at);
        let Some((operand, sign)) = bytes
            .get(at + 1..)
            .and_then(|rest| rest.first_chunk::<4>())
            .map(|operand| (u32::from_le_bytes(*operand), operand[3]))
        else {
            return;
        };
        at += 1;
        seen = if distance > 3 {
            0
        } else {
            (seen << (distance - 1)) & 7
        };
        let suspect = SUSPECT[seen as usize & 7];
        if seen != 0 {
            let byte = operand.to_le_bytes()[(3 - suspect as usize) & 3];
            if matches!(seen, 3 | 5..) || is_sign(byte) {
                seen = seen << 1 | 1;
                continue;
            }
        }
        if !is_sign(sign) {
            seen = seen << 1 | 1;
            continue;
        }
        let next = (at as u32).wrapping_add(4);
        let mut target = operand.wrapping_sub(next);
        if seen != 0 {
            let shift = suspect * 8;
            while is_sign((target >> (24 - shift)) as u8) {
                let again = target ^ ((1u64 << (32 - shift)) - 1) as u32;
                target = again.wrapping_sub(next);
            }
        }
        // The sign is that of bit 24.
        let target = ((target << 7) as i32 >> 7) as u32;
        if let Some(operand) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *operand = target.to_le_bytes();
        }
        at += 4;
    }
}

/// Where the next byte E8 or E9 is, from `at` on.
#[inline]
fn next_call(bytes: &[u8], at: usize) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let mut at = at;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        // The byte is zero where it is one of the two; the lowest of the high bits
        // that come of it is right.
        let word = (u64::from_le_bytes(*chunk) & !ONES) ^ (ONES * 0xe8);
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(at + (zeros.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    rest.iter()
        .position(|&byte| byte & 0xfe == 0xe8)
        .map(|n| at + n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lzma_rust2::{CheckType, FilterType, Write, XzOptions, XzWriter};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn pack(data: &[u8], x86: bool, lc: u32, lp: u32, pb: u32) -> Vec<u8> {
        let mut options = XzOptions::with_preset(3);
        options.lzma_options.lc = lc;
        options.lzma_options.lp = lp;
        options.lzma_options.pb = pb;
        options.set_check_sum_type(CheckType::Crc32);
        if x86 {
            options.prepend_pre_filter(FilterType::BcjX86, 0);
        }
        let mut writer = XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(data).unwrap();
        writer.finish().unwrap()
    }

    /// Data with all that packing looks for: literals, runs, repeats near and
    /// far, and calls.
    fn data(pieces: &[(u8, u16, u8)]) -> Vec<u8> {
        let mut out = Vec::new();
        for &(kind, a, b) in pieces {
            let length = usize::from(b) + 1;
            match kind % 5 {
                0 => out.extend((0..length).map(|n| (usize::from(a) * 7 + n * n) as u8)),
                1 => out.extend(core::iter::repeat_n(a as u8, length)),
                2 if !out.is_empty() => {
                    let from = out.len() - 1 - usize::from(a) % out.len();
                    for n in 0..length {
                        out.push(out[from + n]);
                    }
                }
                3 => {
                    for n in 0..length % 8 {
                        out.extend([0xe8 + (n as u8 & 1), a as u8, b, (a >> 8) as u8, 0]);
                        out.extend(core::iter::repeat_n(0xe8, usize::from(b) % 5));
                    }
                }
                _ => out.extend([0xe9, 0xff, 0xe8, 0, 0xff, 0xff, b]),
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn what_was_packed_is_unpacked(
            pieces in prop::collection::vec(any::<(u8, u16, u8)>(), 0..200),
            x86: bool,
            (lc, lp) in (0u32..=4).prop_flat_map(|lc| (Just(lc), 0..=4 - lc)),
            pb in 0u32..=4,
            flip: prop::sample::Index,
        ) {
            let data = data(&pieces);
            // Nothing makes a stream without a block.
            prop_assume!(!data.is_empty());
            let packed = pack(&data, x86, lc, lp, pb);
            let mut out = std::vec![0; data.len()];
            prop_assert_eq!(unxz(&packed, &mut out), Some(data.len()));
            prop_assert!(out == data);
            // Too little room, and any byte changed, is noticed.
            prop_assert_eq!(unxz(&packed, &mut out[1..]), None);
            let mut bad = packed.clone();
            bad[flip.index(packed.len())] ^= 0x10;
            prop_assert_eq!(unxz(&bad, &mut out), None);
            prop_assert_eq!(unxz(&packed[..flip.index(packed.len())], &mut out), None);
        }
    }

    #[test]
    fn large_data_takes_many_chunks() {
        let pieces: Vec<_> = (0..40_000u32)
            .map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8)
            .zip((0..40_000u32).map(|n| (n.wrapping_mul(0x85eb_ca6b) >> 13) as u16))
            .map(|(kind, a)| (kind, a, (a >> 5) as u8))
            .collect();
        let data = data(&pieces);
        let packed = pack(&data, true, 3, 0, 2);
        let mut out = std::vec![0; data.len()];
        assert_eq!(unxz(&packed, &mut out), Some(data.len()));
        assert!(out == data);
    }
}
