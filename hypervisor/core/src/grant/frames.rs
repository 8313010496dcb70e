//! The pages of a grant table: their number, the version of what is in them,
//! and the operations that only change those.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use spin::Mutex;

use super::active::Active;
use super::{
    GrantError, GrantHost, GrantTable, INITIAL_FRAMES, RESERVED_ENTRIES, STATUS_PER_FRAME, State,
    V1_PER_FRAME, V2_PER_FRAME, Version,
};
use crate::addr::{MachineAddress, Mfn, PAGE_SIZE};
use crate::error::{Error, Result};
use crate::event::try_boxed_slice;
use crate::ids::GrantRef;
use xen_abi::grant_table::*;

/// Active entries that one call of [`GrantTable::cache_flush`] looks at.
const CACHE_FLUSH_STEP: u32 = 1 << 12;

/// Status frames that go with a number of frames of entries.
fn status_frames_for(frames: u32) -> u32 {
    frames
        .saturating_mul(V2_PER_FRAME)
        .div_ceil(STATUS_PER_FRAME)
}

/// Which of the frames of a table (`XENMEM_resource_grant_table_id_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableFrames {
    /// The entries.
    Shared,
    /// The status words of version 2.
    Status,
}

impl GrantTable {
    /// Allocates frames until there are `frames` of entries and, with version
    /// 2, the status frames for them, and shares them with the domain.
    pub(super) fn grow<H: GrantHost>(
        &self,
        host: &H,
        state: &mut State,
        frames: u32,
    ) -> Result<()> {
        let frames = frames.max(INITIAL_FRAMES);
        if frames > self.max_frames {
            return Err(Error::Invalid);
        }
        let missing = (frames as usize).saturating_sub(state.shared.len());
        while state.active.len() < frames as usize {
            state.active.try_reserve(1).map_err(|_| Error::NoMemory)?;
            state
                .active
                .push(try_boxed_slice(V1_PER_FRAME as usize, || {
                    Mutex::new(Active::UNUSED)
                })?);
        }
        let shared = self.alloc_frames(host, missing)?;
        if state.version == Version::V2
            && let Err(error) = self.populate_status(host, state, frames)
        {
            for mfn in shared {
                host.free_table_frame(self.domain, mfn);
            }
            return Err(error);
        }
        if state.shared.try_reserve(shared.len()).is_err() {
            for mfn in shared {
                host.free_table_frame(self.domain, mfn);
            }
            return Err(Error::NoMemory);
        }
        for mfn in shared {
            host.share_table_frame(self.domain, mfn);
            state.shared.push(mfn);
        }
        Ok(())
    }

    /// All of so many frames, or none.
    fn alloc_frames<H: GrantHost>(&self, host: &H, count: usize) -> Result<Vec<Mfn>> {
        let mut frames = Vec::new();
        frames
            .try_reserve_exact(count)
            .map_err(|_| Error::NoMemory)?;
        for _ in 0..count {
            match host.alloc_table_frame(self.domain) {
                Some(mfn) => frames.push(mfn),
                None => {
                    for mfn in frames {
                        host.free_table_frame(self.domain, mfn);
                    }
                    return Err(Error::NoMemory);
                }
            }
        }
        Ok(frames)
    }

    fn populate_status<H: GrantHost>(
        &self,
        host: &H,
        state: &mut State,
        frames: u32,
    ) -> Result<()> {
        let missing = (status_frames_for(frames) as usize).saturating_sub(state.status.len());
        state
            .status
            .try_reserve(missing)
            .map_err(|_| Error::NoMemory)?;
        for mfn in self.alloc_frames(host, missing)? {
            host.share_table_frame(self.domain, mfn);
            state.status.push(mfn);
        }
        Ok(())
    }

    /// Takes all status frames from the domain and frees them. `Busy`, with
    /// nothing changed, if any is mapped by anyone.
    fn unpopulate_status<H: GrantHost>(&self, host: &H, state: &mut State) -> Result<()> {
        for (i, &mfn) in state.status.iter().enumerate() {
            if !host.unshare_table_frame(self.domain, mfn) {
                for &mfn in state.status.iter().take(i) {
                    host.share_table_frame(self.domain, mfn);
                }
                return Err(Error::Busy);
            }
        }
        for mfn in state.status.drain(..) {
            host.free_table_frame(self.domain, mfn);
        }
        Ok(())
    }

    /// `GNTTABOP_setup_table`: has at least `nr_frames` frames; they are then
    /// given by [`Self::shared_frame`]. `General` beyond the limit, or no memory.
    pub fn setup_table<H: GrantHost>(
        &self,
        host: &H,
        nr_frames: u32,
    ) -> core::result::Result<(), GrantError> {
        let mut state = self.state.write();
        if nr_frames > self.max_frames {
            return Err(GrantError::General);
        }
        let lacks_status = state.version == Version::V2
            && status_frames_for(nr_frames) as usize > state.status.len();
        if nr_frames as usize > state.shared.len() || lacks_status {
            let have = state.shared.len() as u32;
            self.grow(host, &mut state, nr_frames.max(have))
                .map_err(|_| GrantError::General)?;
        }
        Ok(())
    }

    /// A frame of entries, if the table has as many.
    pub fn shared_frame(&self, index: u32) -> Option<Mfn> {
        self.state.read().shared.get(index as usize).copied()
    }

    /// `GNTTABOP_get_status_frames`: checks that there are as many status
    /// frames; they are then given by [`Self::status_frame`]. `General` if not.
    pub fn get_status_frames(&self, nr_frames: u32) -> core::result::Result<(), GrantError> {
        if nr_frames as usize > self.state.read().status.len() {
            return Err(GrantError::General);
        }
        Ok(())
    }

    /// A status frame, if there are as many.
    pub fn status_frame(&self, index: u32) -> Option<Mfn> {
        self.state.read().status.get(index as usize).copied()
    }

    /// `GNTTABOP_query_size`: the frames of entries there are, and may be.
    pub fn query_size(&self) -> (u32, u32) {
        (self.state.read().shared.len() as u32, self.max_frames)
    }

    /// How many frames of a kind there may be, for the size of a resource.
    pub fn resource_max_frames(&self, kind: TableFrames) -> u32 {
        match kind {
            TableFrames::Shared => self.max_frames,
            TableFrames::Status => status_frames_for(self.max_frames),
        }
    }

    /// Frames for `XENMEM_acquire_resource` and `XENMAPSPACE_grant_table`: from
    /// `first` on as many as `out` has room for; the table grows as needed.
    /// `Invalid` beyond the limit, none asked for, or status frames of version 1.
    pub fn acquire_frames<H: GrantHost>(
        &self,
        host: &H,
        kind: TableFrames,
        first: u32,
        out: &mut [Mfn],
    ) -> Result<()> {
        let end = u32::try_from(out.len())
            .ok()
            .filter(|&count| count != 0)
            .and_then(|count| first.checked_add(count))
            .ok_or(Error::Invalid)?;
        let mut state = self.state.write();
        let needed = match kind {
            TableFrames::Shared => end,
            TableFrames::Status if state.version == Version::V2 => end
                .checked_mul(STATUS_PER_FRAME / V2_PER_FRAME)
                .ok_or(Error::Invalid)?,
            TableFrames::Status => return Err(Error::Invalid),
        };
        let have = |state: &State| match kind {
            TableFrames::Shared => state.shared.len(),
            TableFrames::Status => state.status.len(),
        };
        if (end as usize) > have(&state) {
            if needed > self.max_frames {
                return Err(Error::Invalid);
            }
            self.grow(host, &mut state, needed)
                .map_err(|_| Error::Invalid)?;
        }
        let frames = match kind {
            TableFrames::Shared => &state.shared,
            TableFrames::Status => &state.status,
        };
        let frames = frames
            .get(first as usize..end as usize)
            .ok_or(Error::Invalid)?;
        out.copy_from_slice(frames);
        Ok(())
    }

    /// `GNTTABOP_get_version`: 1 or 2.
    pub fn version(&self) -> u32 {
        match self.state.read().version {
            Version::V1 => 1,
            Version::V2 => 2,
        }
    }

    /// `GNTTABOP_set_version`, of the caller's own table. All entries are
    /// cleared, but for the 8 reserved ones, which are translated. What the
    /// version is afterwards, also after an error, [`Self::version`] says.
    ///
    /// Errors: `Invalid` neither 1 nor 2; `NotImplemented` version 2 is not
    /// allowed; `Busy` grants are in use, or the status frames are; `Again`
    /// copies of sub-pages are under way; `Range` a reserved entry
    /// that version 1 cannot hold; `NoMemory`.
    pub fn set_version<H: GrantHost>(&self, host: &H, version: u32) -> Result<()> {
        let wanted = match version {
            1 => Version::V1,
            2 if self.max_version >= 2 => Version::V2,
            2 => return Err(Error::NotImplemented),
            _ => return Err(Error::Invalid),
        };
        let mut state = self.state.write();
        if state.version == wanted {
            return Ok(());
        }
        for reference in (RESERVED_ENTRIES..state.entries()).map(GrantRef) {
            if let Some(active) = state.active(reference)
                && !active.lock().pins.is_empty()
            {
                return Err(Error::Busy);
            }
        }
        // The reserved entries in the form of version 1, read once each.
        let mut reserved = [0u64; RESERVED_ENTRIES as usize];
        match wanted {
            Version::V2 => {
                let frames = state.shared.len() as u32;
                for (i, slot) in reserved.iter_mut().enumerate() {
                    if let Some(entry) = state.entry(host, GrantRef(i as u32)) {
                        *slot = entry.header().0;
                    }
                }
                self.populate_status(host, &mut state, frames)?;
            }
            Version::V1 => {
                if self.v2_ops.load(Ordering::SeqCst) != 0 {
                    return Err(Error::Again);
                }
                for (i, slot) in reserved.iter_mut().enumerate() {
                    let Some(entry) = state.entry(host, GrantRef(i as u32)) else {
                        continue;
                    };
                    let (header, frame) = (entry.header(), entry.second_word());
                    match header.kind() {
                        GTF_PERMIT_ACCESS if frame >> 32 == 0 => {
                            *slot = (header.0 & 0xffff_ffff)
                                | u64::from(entry.status_bits())
                                | frame << 32;
                        }
                        GTF_PERMIT_ACCESS | GTF_TRANSITIVE => return Err(Error::Range),
                        _ => {}
                    }
                }
                self.unpopulate_status(host, &mut state)?;
            }
        }
        for &mfn in &state.shared {
            if let Some(frame) = host.frame(mfn) {
                frame.zero();
            }
        }
        state.version = wanted;
        if let Some(frame) = state.shared.first().and_then(|&mfn| host.frame(mfn)) {
            for (i, entry) in reserved.into_iter().enumerate() {
                match wanted {
                    Version::V1 => frame.store(i, entry),
                    Version::V2 => {
                        frame.store(2 * i + 1, entry >> 32);
                        let in_use = u64::from(GTF_READING | GTF_WRITING);
                        frame.store(2 * i, entry & 0xffff_ffff & !in_use);
                        if let Some(status) = state.status.first().and_then(|&mfn| host.frame(mfn))
                        {
                            status.store_u16(2 * i, (entry & in_use) as u16);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// `GNTTABOP_swap_grant_ref`, of the caller's own table. Errors: `BadRef`;
    /// `Again` one of them is in use.
    pub fn swap_grant_ref<H: GrantHost>(
        &self,
        host: &H,
        a: GrantRef,
        b: GrantRef,
    ) -> core::result::Result<(), GrantError> {
        let state = self.state.write();
        let entry_a = state.entry(host, a).ok_or(GrantError::BadRef)?;
        let entry_b = state.entry(host, b).ok_or(GrantError::BadRef)?;
        if a == b {
            return Ok(());
        }
        for reference in [a, b] {
            let active = state.active(reference).ok_or(GrantError::BadRef)?;
            if !active.lock().pins.is_empty() {
                return Err(GrantError::Again);
            }
        }
        entry_a.swap(&entry_b);
        Ok(())
    }

    /// `GNTTABOP_cache_flush`, one operation of the caller's, in steps: `Ok(false)` says
    /// that there is more to look at; `progress`, 0 at first, then says where to go on.
    ///
    /// Errors: `Invalid` bad range, operation or address, or no grant of that
    /// frame to the caller; `NotSupported` by reference, or invalidation alone;
    /// `NotPermitted` a frame of nobody's; `BadSequence`.
    pub fn cache_flush<H: GrantHost>(
        self: &Arc<Self>,
        host: &H,
        op: &GnttabCacheFlush,
        progress: &mut u32,
    ) -> Result<bool> {
        let (offset, length) = (usize::from(op.offset), usize::from(op.length));
        let known = GNTTAB_CACHE_INVAL | GNTTAB_CACHE_CLEAN;
        if offset >= PAGE_SIZE
            || length > PAGE_SIZE
            || offset + length > PAGE_SIZE
            || op.op & !known != 0
        {
            return Err(Error::Invalid);
        }
        if length == 0 || op.op == 0 {
            return if *progress == 0 {
                Ok(true)
            } else {
                Err(Error::BadSequence)
            };
        }
        let mfn = MachineAddress(op.a).frame();
        if host.frame(mfn).is_none() {
            return Err(Error::Invalid);
        }
        let owner = host.get_page_of_anyone(mfn).ok_or(Error::NotPermitted)?;
        let result = (|| {
            if owner != self.domain {
                let table = host.grant_table(owner).ok_or(Error::NotPermitted)?;
                if !table.is_granted(self, mfn, progress)? {
                    return Ok(false);
                }
            }
            match (
                op.op & GNTTAB_CACHE_CLEAN != 0,
                op.op & GNTTAB_CACHE_INVAL != 0,
            ) {
                (true, invalidate) => {
                    host.clean_cache(mfn, offset, length, invalidate);
                    Ok(true)
                }
                // Dropping what was written would undo others' writes.
                (false, _) => Err(Error::NotSupported),
            }
        })();
        host.put_page(mfn);
        result
    }

    /// Whether some entry of this table, from `progress` on, is in use by
    /// `grantee` and grants the frame. `Ok(false)` if not all were looked at.
    fn is_granted(&self, grantee: &Self, mfn: Mfn, progress: &mut u32) -> Result<bool> {
        let state = self.state.read();
        let end = progress
            .saturating_add(CACHE_FLUSH_STEP)
            .min(state.entries());
        for reference in (*progress..end).map(GrantRef) {
            let Some(active) = state.active(reference) else {
                break;
            };
            let active = active.lock();
            if !active.pins.is_empty() && active.grantee == grantee.domain && active.mfn == mfn {
                return Ok(true);
            }
        }
        if end < state.entries() {
            *progress = end;
            Ok(false)
        } else {
            Err(Error::Invalid)
        }
    }

    /// Frees the frames of the table, when the domain is gone and nobody has a
    /// reference to them any more.
    pub fn free_frames<H: GrantHost>(&self, host: &H) {
        let mut state = self.state.write();
        let State { shared, status, .. } = &mut *state;
        for mfn in shared.drain(..).chain(status.drain(..)) {
            host.free_table_frame(self.domain, mfn);
        }
    }
}
