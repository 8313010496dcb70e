//! Takes a guest apart into a stream.
//!
//! [`Saver::new`] writes what does not change, [`Saver::send`] pages (all of a suspended
//! guest's at once, or round after round while it runs), [`Saver::finish`] the rest, for which
//! the guest must be suspended. A page table that is seen in the middle of a change is put
//! back ([`Saver::deferred`]); in a suspended guest that is an error.
//!
//! Pages come in two ways, of which the stream shows nothing ([`Channel`]): from a hypervisor
//! that gives them in the stream's form ([`Source::export`]), or mapped, page by page, and
//! brought into that form here.

use std::io::Write;

use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::overcast::OVERCAST_PAGE_CHANGING;
use zerocopy::{FromBytes, IntoBytes};

use super::p2m::List;
use super::record::*;
use super::writer::Writer;
use super::*;

/// The domain that is saved.
pub trait Source {
    /// Number of vCPUs that it can have.
    fn vcpus(&self) -> u32;
    /// The page that it shares with the hypervisor.
    fn shared_info(&mut self) -> Result<Box<Page>>;
    /// One of its pages.
    fn read(&mut self, mfn: Mfn) -> Result<Page>;
    /// Its list of frames is in these pages; [`Source::mfn`] looks there from now on.
    fn set_p2m(&mut self, pages: &[Mfn]) -> Result<()>;
    /// Where it says a frame is, at this moment; [`NO_FRAME`] beyond the list.
    fn mfn(&self, pfn: Pfn) -> Mfn;
    /// What the hypervisor says the guest calls a machine frame, whoever's it is.
    fn pfn(&self, mfn: Mfn) -> Option<Pfn>;
    /// What frames are, one answer for each; `None` for what is not understood. For
    /// [`NO_FRAME`], [`PageType::INVALID`].
    fn types(&mut self, mfns: &[Mfn]) -> Result<Vec<Option<PageType>>>;
    /// Shows pages, each with its place in `mfns`; those that cannot be had are left out.
    fn pages(&mut self, mfns: &[Mfn], each: &mut dyn FnMut(usize, &Page)) -> Result<()>;
    /// Takes pages up to `max` in the stream's form, pages of zeros without contents if `elide`.
    /// False, and nothing, where the hypervisor does not do that.
    fn export(&mut self, pfns: &[Pfn], max: Pfn, elide: bool, into: &mut Export) -> Result<bool> {
        let _ = (pfns, max, elide, into);
        Ok(false)
    }
    /// The CPU that it sees.
    fn cpu_policy(&mut self) -> Result<CpuPolicy>;
    /// How it sees time.
    fn tsc(&mut self) -> Result<TscInfo>;
    /// The state of a vCPU, with machine frames; `None` if it is offline.
    fn vcpu(&mut self, vcpu: u32) -> Result<Option<VcpuState>>;
}

/// Pages as the hypervisor gives them ([`xen_abi::overcast::DomctlReadPages`]).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Export {
    /// For each page its number, what it is, and whether it is
    /// [`xen_abi::overcast::OVERCAST_PAGE_CHANGING`].
    pub numbers: Vec<u64>,
    /// Contents of those that have some.
    pub data: Vec<u8>,
}

/// How pages are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Channel {
    /// From the hypervisor in the stream's form, if it does that.
    #[default]
    Fast,
    /// By mapping them.
    Mapped,
    /// In both ways, of a guest that is suspended; they must give the same.
    Both,
}

/// A set of frames.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FrameSet {
    words: Vec<u64>,
}

impl FrameSet {
    /// For frames up to `max`.
    pub fn new(max: Pfn) -> Self {
        Self {
            words: vec![0; (max.0 / 64 + 1) as usize],
        }
    }

    /// From the hypervisor's bitmap: a bit a frame.
    pub fn from_words(words: Vec<u64>) -> Self {
        Self { words }
    }

    /// Adds a frame; those beyond the end are left out.
    pub fn insert(&mut self, pfn: Pfn) {
        if let Some(word) = self.words.get_mut((pfn.0 / 64) as usize) {
            *word |= 1 << (pfn.0 % 64);
        }
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Whether a frame is in it.
    pub fn contains(&self, pfn: Pfn) -> bool {
        self.words
            .get((pfn.0 / 64) as usize)
            .is_some_and(|word| word >> (pfn.0 % 64) & 1 != 0)
    }

    /// Adds all of another set.
    pub fn add(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    /// Number of frames.
    pub fn len(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frames.
    pub fn iter(&self) -> impl Iterator<Item = Pfn> {
        (0u64..).zip(&self.words).flat_map(|(index, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = u64::from(rest.trailing_zeros());
                    rest &= rest - 1;
                    Pfn(index * 64 + bit)
                })
            })
        })
    }
}

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Pages with contents.
    pub pages: u64,
    /// Pages of zeros, of which only the number was sent.
    pub zeros: u64,
    /// Page tables among the pages.
    pub tables: u64,
}

impl Sent {
    fn add(&mut self, other: Self) {
        self.pages += other.pages;
        self.zeros += other.zeros;
        self.tables += other.tables;
    }
}

/// Saves a domain.
pub struct Saver<S, W> {
    source: S,
    writer: Writer<W>,
    list: List,
    /// Pages of zeros are sent as [`PageType::ALLOCATE`]; for a reader who takes it so.
    elide_zeros: bool,
    channel: Channel,
    export: Export,
    sent: FrameSet,
    deferred: FrameSet,
    total: Sent,
}

impl<S: Source, W: Write> Saver<S, W> {
    /// Writes the head of the stream. The guest may still run.
    ///
    /// # Errors
    /// `Guest` if the guest does not say where its frames are, `Io`, `Machine`.
    pub fn new(mut source: S, to: W, elide_zeros: bool) -> Result<Self> {
        let list = List::find(&mut source)?;
        source.set_p2m(&list.pages)?;
        let policy = source.cpu_policy()?;
        let mut writer = Writer::new(to)?;
        writer.record(&Record::PvInfo)?;
        if !policy.leaves.is_empty() {
            writer.record(&Record::CpuidPolicy(policy.leaves))?;
        }
        if !policy.msrs.is_empty() {
            writer.record(&Record::MsrPolicy(policy.msrs))?;
        }
        writer.record(&Record::StaticDataEnd)?;
        let frames = list
            .pages
            .iter()
            .map(|&mfn| {
                own(&source, list.max_pfn, mfn).ok_or_else(|| {
                    Error::Guest(format!(
                        "the list of its frames is in frame {:#x}, which is not its own",
                        mfn.0
                    ))
                })
            })
            .collect::<Result<_>>()?;
        writer.record(&Record::P2mFrames {
            start: Pfn(0),
            end: list.max_pfn,
            frames,
        })?;
        Ok(Self {
            sent: FrameSet::new(list.max_pfn),
            deferred: FrameSet::new(list.max_pfn),
            source,
            writer,
            list,
            elide_zeros,
            channel: Channel::default(),
            export: Export::default(),
            total: Sent::default(),
        })
    }

    /// The same, with pages taken in this way.
    pub fn by(self, channel: Channel) -> Self {
        Self { channel, ..self }
    }

    /// The highest frame of the guest.
    pub fn max_pfn(&self) -> Pfn {
        self.list.max_pfn
    }

    /// The domain.
    pub fn source(&mut self) -> &mut S {
        &mut self.source
    }

    /// Where the stream goes.
    pub fn output(&mut self) -> &mut W {
        self.writer.inner()
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.writer.written()
    }

    /// What was sent so far.
    pub fn total(&self) -> Sent {
        self.total
    }

    /// All frames that the guest may have.
    pub fn all(&self) -> FrameSet {
        let mut all = FrameSet::new(self.list.max_pfn);
        (0..=self.list.max_pfn.0).for_each(|pfn| all.insert(Pfn(pfn)));
        all
    }

    /// Frames to be sent again because they were in the middle of a change; forgets them.
    pub fn deferred(&mut self) -> FrameSet {
        std::mem::replace(&mut self.deferred, FrameSet::new(self.list.max_pfn))
    }

    /// Sends pages. `running` says that the guest runs meanwhile; `progress` is told the number
    /// of frames that were looked at, and ends it by an error.
    ///
    /// # Errors
    /// `Guest` if a suspended guest has page tables that make no sense; `Io`, `Machine`.
    pub fn send(
        &mut self,
        frames: &FrameSet,
        running: bool,
        mut progress: impl FnMut(u64) -> Result<()>,
    ) -> Result<Sent> {
        if self.list.generation != 0 {
            self.check_list()?;
        }
        let mut total = Sent::default();
        let mut batch = Vec::with_capacity(BATCH);
        let mut pages = Pages::default();
        let max = self.list.max_pfn;
        let mut frames = frames.iter().filter(|&pfn| pfn <= max);
        loop {
            batch.clear();
            batch.extend(frames.by_ref().take(BATCH));
            if batch.is_empty() {
                break;
            }
            let sent = self.batch(&batch, running, &mut pages)?;
            total.add(sent);
            self.total.add(sent);
            progress(batch.len() as u64)?;
        }
        Ok(total)
    }

    /// The list of frames must be where it was.
    fn check_list(&mut self) -> Result<()> {
        let now = self.source.shared_info()?;
        let (now, _) = xen_abi::xen::SharedInfo::read_from_prefix(&now[..])
            .map_err(|_| Error::Guest("no shared page".into()))?;
        match now.arch.p2m_generation == self.list.generation {
            true => Ok(()),
            false => Err(Error::Guest(
                "it moved the list of its frames meanwhile; try again".into(),
            )),
        }
    }

    fn batch(&mut self, batch: &[Pfn], running: bool, pages: &mut Pages) -> Result<Sent> {
        pages.clear();
        let exported = match self.channel {
            Channel::Mapped => None,
            Channel::Fast | Channel::Both => self.exported(batch, running, pages)?,
        };
        let sent = match exported {
            None => self.mapped(batch, running, pages)?,
            Some(sent) if self.channel == Channel::Both && !running => {
                let mut other = Pages::default();
                if self.mapped(batch, false, &mut other)? != sent || other != *pages {
                    return Err(Error::Guest(format!(
                        "the ways to take pages differ between frames {:#x} and {:#x}",
                        batch.first().map_or(0, |pfn| pfn.0),
                        batch.last().map_or(0, |pfn| pfn.0)
                    )));
                }
                sent
            }
            Some(sent) => sent,
        };
        self.writer.pages(pages)?;
        Ok(sent)
    }

    /// Adds pages that the hypervisor gives; `None` if it does not.
    fn exported(
        &mut self,
        batch: &[Pfn],
        running: bool,
        pages: &mut Pages,
    ) -> Result<Option<Sent>> {
        let mut export = std::mem::take(&mut self.export);
        let max = self.list.max_pfn;
        let done = self
            .source
            .export(batch, max, self.elide_zeros, &mut export)?;
        if !done {
            return Ok(None);
        }
        let wrong = |pfn: Pfn| Error::Guest(format!("frame {:#x} comes back otherwise", pfn.0));
        let mut sent = Sent::default();
        let mut data = export.data.chunks_exact(PAGE_SIZE);
        let mut numbers = export.numbers.iter();
        for &pfn in batch {
            let &number = numbers.next().ok_or_else(|| wrong(pfn))?;
            if number & OVERCAST_PAGE_CHANGING != 0 {
                if running {
                    self.deferred.insert(pfn);
                } else {
                    // This finds out why.
                    sent.add(self.mapped(&[pfn], false, pages)?);
                }
                continue;
            }
            let kind = PageType::new((number >> 60) as u8).ok_or_else(|| wrong(pfn))?;
            if kind.has_data() {
                let page = data.next().and_then(|page| page.try_into().ok());
                let page: &Page = page.ok_or_else(|| wrong(pfn))?;
                pages.push(pfn, kind, page);
                self.sent.insert(pfn);
                sent.pages += 1;
                sent.tables += u64::from(kind.level().is_some());
            } else if kind == PageType::ALLOCATE {
                pages.push(pfn, kind, &[0; PAGE_SIZE]);
                self.sent.insert(pfn);
                sent.zeros += 1;
            } else {
                self.absent(pfn, kind, running, pages);
            }
        }
        self.export = export;
        Ok(Some(sent))
    }

    /// A frame without a page.
    fn absent(&mut self, pfn: Pfn, kind: PageType, running: bool, pages: &mut Pages) {
        // What is not there need not be sent, unless it was.
        if self.sent.contains(pfn) || kind != PageType::INVALID {
            pages.push(pfn, kind, &[0; PAGE_SIZE]);
        }
        // It may come back before the end, unnoticed.
        if running {
            self.deferred.insert(pfn);
        }
    }

    /// Adds pages that are mapped and brought into the stream's form here.
    fn mapped(&mut self, batch: &[Pfn], running: bool, pages: &mut Pages) -> Result<Sent> {
        let mfns: Vec<Mfn> = batch.iter().map(|&pfn| self.source.mfn(pfn)).collect();
        let types = self.source.types(&mfns)?;
        let mut kinds = Vec::with_capacity(batch.len());
        let mut wanted = Vec::with_capacity(batch.len());
        for ((&pfn, &mfn), kind) in batch.iter().zip(&mfns).zip(types) {
            let kind = kind.ok_or_else(|| {
                Error::Guest(format!("frame {:#x} has a type that is not known", pfn.0))
            })?;
            if kind.has_data() {
                wanted.push((kinds.len(), mfn));
            }
            kinds.push(kind);
        }
        // What is found while the pages are looked at.
        let mut contents: Vec<Option<Found>> = vec![None; batch.len()];
        let wanted_mfns: Vec<Mfn> = wanted.iter().map(|&(_, mfn)| mfn).collect();
        let (max, elide) = (self.list.max_pfn, self.elide_zeros);
        let mut data = vec![[0; PAGE_SIZE]; wanted.len()];
        let mut seen = vec![false; wanted.len()];
        self.source.pages(&wanted_mfns, &mut |place, page| {
            if let (Some(slot), Some(seen)) = (data.get_mut(place), seen.get_mut(place)) {
                *slot = *page;
                *seen = true;
            }
        })?;
        for ((page, seen), &(index, _)) in data.iter_mut().zip(seen).zip(&wanted) {
            if !seen {
                continue;
            }
            let source = &self.source;
            let found = match kinds[index].level() {
                None if elide && is_zero(page) => Found::Zeros,
                None => Found::Contents,
                Some(level) => {
                    match tables::canonicalise(page, level, |mfn| own(source, max, mfn)) {
                        Ok(canonical) => {
                            *page = canonical;
                            Found::Contents
                        }
                        Err(tables::Odd::Foreign { .. }) if running => Found::Later,
                        Err(odd) => return Err(odd.into_error(level, batch[index])),
                    }
                }
            };
            contents[index] = Some(found);
        }
        let mut sent = Sent::default();
        let mut data = data.iter();
        for ((&pfn, &kind), found) in batch.iter().zip(&kinds).zip(contents) {
            let page = if kind.has_data() { data.next() } else { None };
            match (page, found) {
                (Some(page), Some(Found::Contents)) => {
                    pages.push(pfn, kind, page);
                    self.sent.insert(pfn);
                    sent.pages += 1;
                    sent.tables += u64::from(kind.level().is_some());
                }
                (Some(page), Some(Found::Zeros)) => {
                    pages.push(pfn, PageType::ALLOCATE, page);
                    self.sent.insert(pfn);
                    sent.zeros += 1;
                }
                (Some(_), Some(Found::Later)) => self.deferred.insert(pfn),
                // It was there when its type was asked for.
                (Some(_), None) if running => self.deferred.insert(pfn),
                (Some(_), None) => {
                    return Err(Error::Guest(format!("frame {:#x} cannot be read", pfn.0)));
                }
                (None, _) => self.absent(pfn, kind, running, pages),
            }
        }
        Ok(sent)
    }

    /// Writes what is left, once the guest is suspended and all its pages were sent, and the
    /// end; gives the domain and the output back.
    ///
    /// # Errors
    /// `Guest` if a vCPU has frames that are not the guest's; `Io`, `Machine`.
    pub fn finish(mut self) -> Result<(S, W)> {
        let tsc = self.source.tsc()?;
        self.writer.record(&Record::Tsc(tsc))?;
        let shared = self.source.shared_info()?;
        self.writer.record(&Record::SharedInfo(shared))?;
        for vcpu in 0..self.source.vcpus() {
            let Some(mut state) = self.source.vcpu(vcpu)? else {
                continue;
            };
            let basic = state.part_mut(VcpuPart::Basic);
            let mut context = VcpuGuestContext::read_from_bytes(basic)
                .map_err(|_| Error::Guest(format!("vCPU {vcpu} has no registers")))?;
            state::canonicalise_context(&mut context, vcpu, |mfn| {
                own(&self.source, self.list.max_pfn, mfn)
            })?;
            basic.copy_from_slice(context.as_bytes());
            for part in VcpuPart::ALL {
                let bytes = state.part_mut(part);
                if !bytes.is_empty() {
                    self.writer.record(&Record::Vcpu {
                        vcpu,
                        part,
                        state: std::mem::take(bytes),
                    })?;
                }
            }
        }
        self.writer.record(&Record::End)?;
        self.writer.inner().flush()?;
        Ok((self.source, self.writer.into_inner()))
    }
}

/// What was found in a page.
#[derive(Clone, Copy)]
enum Found {
    Contents,
    Zeros,
    Later,
}

/// What the guest calls a machine frame, if it is the guest's: both directions must agree.
fn own(source: &impl Source, max: Pfn, mfn: Mfn) -> Option<Pfn> {
    source
        .pfn(mfn)
        .filter(|&pfn| pfn <= max && source.mfn(pfn) == mfn)
}

fn is_zero(page: &Page) -> bool {
    // In pieces that the compiler makes vectors of.
    page.chunks_exact(64)
        .all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sets_hold_what_is_put_in(frames in proptest::collection::btree_set(0u64..500, 0..60)) {
            let mut set = FrameSet::new(Pfn(400));
            frames.iter().for_each(|&pfn| set.insert(Pfn(pfn)));
            let held: Vec<u64> = set.iter().map(|pfn| pfn.0).collect();
            let expected: Vec<u64> = frames.iter().copied().filter(|&pfn| pfn < 448).collect();
            prop_assert_eq!(set.len(), expected.len() as u64);
            prop_assert!(expected.iter().all(|&pfn| set.contains(Pfn(pfn))));
            prop_assert_eq!(held, expected);
        }
    }
}
