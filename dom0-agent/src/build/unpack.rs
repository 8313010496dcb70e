//! Kernels as they are unpacked for a guest: as the hypervisor does it for Dom0, and bzip2
//! beside, which it leaves out. Nobody's kernels are compressed by LZO these days, and no library
//! for it is both kept up and free enough: these are refused by name.

use std::io::Read;

use overcast_core::builder::BuildError;
use overcast_core::builder::image::{Compression, KernelImage, MAX_UNCOMPRESSED};

/// The ELF file within a kernel's file.
pub fn unpack(file: &[u8]) -> Result<Vec<u8>, BuildError> {
    if let (payload, Compression::Bzip2) = KernelImage::payload(file)? {
        return bunzip(payload);
    }
    let image = KernelImage::parse(file)?;
    match image.buffer_size() {
        0 => image.unpack(&mut []).map(<[u8]>::to_vec),
        size => {
            let mut buffer = vec![0; size];
            let length = image.unpack(&mut buffer)?.len();
            buffer.truncate(length);
            Ok(buffer)
        }
    }
}

/// bzip2; what is behind the stream, in a bzImage the size, is passed over.
fn bunzip(payload: &[u8]) -> Result<Vec<u8>, BuildError> {
    let mut elf = Vec::new();
    bzip2::bufread::BzDecoder::new(payload)
        .take(MAX_UNCOMPRESSED as u64 + 1)
        .read_to_end(&mut elf)
        .map_err(|_| BuildError::Damaged(Compression::Bzip2))?;
    match elf.len() {
        length if length > MAX_UNCOMPRESSED => Err(BuildError::UncompressedSize(length as u64)),
        _ => Ok(elf),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn elf() -> Vec<u8> {
        let mut elf = b"\x7fELF".to_vec();
        elf.extend((0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()));
        elf
    }

    #[test]
    fn bzip2_is_unpacked_whatever_follows() {
        let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        packer.write_all(&elf()).expect("packed");
        let mut payload = packer.finish().expect("packed");
        assert_eq!(unpack(&payload), Ok(elf()));
        payload.extend((elf().len() as u32).to_le_bytes());
        assert_eq!(unpack(&payload), Ok(elf()));
        let damaged = Err(BuildError::Damaged(Compression::Bzip2));
        assert_eq!(unpack(&payload[..payload.len() / 2]), damaged);
        let middle = payload.len() / 2;
        payload[middle] ^= 1;
        assert_eq!(unpack(&payload), damaged);
    }

    #[test]
    fn what_is_not_compressed_is_as_it_is_and_lzo_is_named() {
        assert_eq!(unpack(&elf()), Ok(elf()));
        let mut lzo = b"\x89LZO\0\r\n\x1a\n".to_vec();
        lzo.resize(100, 0);
        let error = unpack(&lzo).expect_err("not known");
        assert!(error.to_string().contains("lzo"), "{error}");
    }
}
