//! The file that `xl save` writes, around libxc's stream.
//!
//! ```text
//!  "Xen saved domain, xl format\n \0 \r"    32 bytes
//!  byte order 0x01020304, mandatory flags (1: JSON, 2: libxl stream v2),
//!  optional flags, length of what follows    4 × 4 bytes, of the domain's byte order
//!  length of the configuration               4 bytes
//!  the configuration: JSON, a zero at its end
//!  "LibxlFmt", version 2, options            16 bytes, big endian
//!  record LIBXC_CONTEXT (1, length 0)
//!    libxc's stream
//!  records that an emulator needs (none for PV guests)
//!  record END (0, length 0)
//! ```
//!
//! Sources: `tools/xl/xl.h` and `docs/specs/libxl-migration-stream.pandoc` of Xen. The JSON is
//! libxl's `libxl_domain_config`.

use std::io::{Read, Write};

use super::{Error, Result, read_array, read_body};

/// First bytes of a file.
pub const MAGIC: &[u8; 32] = b"Xen saved domain, xl format\n \0 \r";
const BYTE_ORDER: u32 = 0x0102_0304;
const FLAG_JSON: u32 = 1;
const FLAG_STREAM_V2: u32 = 2;
const LIBXL: u64 = 0x4c69_6278_6c46_6d74;
const LIBXL_VERSION: u32 = 2;
const RECORD_END: u32 = 0;
const RECORD_LIBXC: u32 = 1;
const RECORD_EMULATOR_STORE: u32 = 2;
const RECORD_EMULATOR_CONTEXT: u32 = 3;
const OPTIONAL: u32 = 1 << 31;
/// The longest configuration that is taken.
pub const MAX_CONFIG: usize = 1 << 20;
/// The longest record of an emulator that is passed over.
const MAX_EMULATOR: u32 = 64 << 20;

const HEADER: &str = "xl's header";
const STREAM: &str = "libxl's header";

/// Writes everything up to libxc's stream.
pub fn begin(to: &mut impl Write, config: &str) -> Result<()> {
    let text = config.as_bytes();
    if text.len() >= MAX_CONFIG || text.contains(&0) {
        return Err(Error::header(
            HEADER,
            "the configuration is too long, or no text",
        ));
    }
    let length = text.len() as u32 + 1;
    to.write_all(MAGIC)?;
    for word in [
        BYTE_ORDER,
        FLAG_JSON | FLAG_STREAM_V2,
        0,
        length + 4,
        length,
    ] {
        to.write_all(&word.to_le_bytes())?;
    }
    to.write_all(text)?;
    to.write_all(&[0])?;
    to.write_all(&LIBXL.to_be_bytes())?;
    to.write_all(&LIBXL_VERSION.to_be_bytes())?;
    to.write_all(&0u32.to_be_bytes())?;
    record(to, RECORD_LIBXC)
}

/// Writes what follows libxc's stream.
pub fn end(to: &mut impl Write) -> Result<()> {
    record(to, RECORD_END)
}

fn record(to: &mut impl Write, kind: u32) -> Result<()> {
    to.write_all(&kind.to_le_bytes())?;
    to.write_all(&0u32.to_le_bytes())?;
    Ok(())
}

/// Reads everything up to libxc's stream; the configuration.
///
/// # Errors
/// `Header` if it is no such file, or one of another kind.
pub fn read_begin(from: &mut impl Read) -> Result<String> {
    let magic: [u8; 32] = read_array(from, HEADER)?;
    if &magic != MAGIC {
        return Err(Error::header(
            HEADER,
            "this is no file of `overcast save` or `xl save`",
        ));
    }
    let mut word = || read_array(from, HEADER).map(u32::from_le_bytes);
    let (order, mandatory, optional, length) = (word()?, word()?, word()?, word()? as usize);
    if order != BYTE_ORDER {
        return Err(Error::header(HEADER, "of another byte order"));
    }
    if mandatory & !(FLAG_JSON | FLAG_STREAM_V2) != 0 || optional != 0 {
        return Err(Error::header(
            HEADER,
            format!("flags {mandatory:#x}/{optional:#x} are not known"),
        ));
    }
    if mandatory & FLAG_STREAM_V2 == 0 {
        return Err(Error::header(HEADER, "saved by Xen 4.5 or earlier"));
    }
    if mandatory & FLAG_JSON == 0 {
        return Err(Error::header(HEADER, "it has no configuration in JSON"));
    }
    if !(4..=MAX_CONFIG + 4).contains(&length) {
        return Err(Error::header(
            HEADER,
            format!("{length} bytes of configuration"),
        ));
    }
    let mut data = Vec::new();
    read_body(from, length, &mut data, "the configuration")?;
    let config = data
        .split_first_chunk::<4>()
        .and_then(|(length, rest)| rest.get(..u32::from_le_bytes(*length) as usize))
        .ok_or_else(|| Error::header(HEADER, "the configuration is longer than its room"))?;
    let config = config.strip_suffix(&[0]).unwrap_or(config);
    let config = std::str::from_utf8(config)
        .map_err(|_| Error::header(HEADER, "the configuration is no UTF-8"))?
        .to_owned();

    if u64::from_be_bytes(read_array(from, STREAM)?) != LIBXL {
        return Err(Error::header(STREAM, "the identification is not LibxlFmt"));
    }
    let version = u32::from_be_bytes(read_array(from, STREAM)?);
    if version != LIBXL_VERSION {
        return Err(Error::header(
            STREAM,
            format!("version {version} is not known"),
        ));
    }
    let options = u32::from_be_bytes(read_array(from, STREAM)?);
    if options & 1 != 0 {
        return Err(Error::header(STREAM, "big endian"));
    }
    // What an emulator needs may come before; a PV guest has none.
    while next(from)? != RECORD_LIBXC {}
    Ok(config)
}

/// Reads what follows libxc's stream.
pub fn read_end(from: &mut impl Read) -> Result<()> {
    while next(from)? != RECORD_END {}
    Ok(())
}

/// Reads a record and passes over its body; its type.
fn next(from: &mut impl Read) -> Result<u32> {
    const RECORD: &str = "a record of libxl";
    let kind = u32::from_le_bytes(read_array(from, RECORD)?);
    let length = u32::from_le_bytes(read_array(from, RECORD)?);
    match kind {
        RECORD_LIBXC | RECORD_END if length != 0 => {
            return Err(Error::record(
                "libxl's",
                format!("type {kind} with {length} bytes"),
            ));
        }
        RECORD_LIBXC | RECORD_END => return Ok(kind),
        RECORD_EMULATOR_STORE | RECORD_EMULATOR_CONTEXT if length <= MAX_EMULATOR => {}
        kind if kind & OPTIONAL != 0 => {}
        _ => {
            return Err(Error::record(
                "libxl's",
                format!("type {kind:#x} with {length} bytes is not known"),
            ));
        }
    }
    let padded = u64::from(length).next_multiple_of(8);
    let passed = std::io::copy(&mut from.take(padded), &mut std::io::sink())?;
    match passed == padded {
        true => Ok(kind),
        false => Err(Error::Truncated(RECORD)),
    }
}
