//! The stream of a migration over several connections at the same time ("lanes").
//!
//! ```text
//!            cut into pieces          pack, encrypt, send      receive, decrypt, unpack
//!  Saver ──▶ Outlet ── 0, 3, 6 … ──▶ thread ═══ lane 0 ═══▶ thread ── 0, 3, 6 … ─┐
//!                   ── 1, 4, 7 … ──▶ thread ═══ lane 1 ═══▶ thread ── 1, 4, 7 … ─┼▶ inlet ──▶ restore
//!                   ── 2, 5, 8 … ──▶ thread ═══ lane 2 ═══▶ thread ── 2, 5, 8 … ─┘
//! ```
//!
//! Item n (a piece of the stream, or a mark) goes by lane n mod lanes, and is taken from there when
//! it is its turn. So what comes out is the stream that went in, byte by byte: no page of a later
//! round can be overtaken by one of an earlier round. The end goes by all lanes.
//!
//! At each end [`WAITING`] items wait for each lane at most, and one is being worked on: some
//! 4 MiB a lane. A lane that fails is an error of the whole at that end, and the other lanes end
//! with it.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::wire::{Compression, Item, PIECE, items, put_item, until_end};

/// The most lanes of a stream.
pub const MOST: u32 = 8;
/// Items that wait for a lane.
const WAITING: usize = 2;

fn gone() -> io::Error {
    io::Error::new(
        io::ErrorKind::BrokenPipe,
        "a connection of the stream ended",
    )
}

struct Lane<W> {
    queue: SyncSender<Item>,
    thread: JoinHandle<io::Result<W>>,
}

impl<W> Lane<W> {
    /// Lets it send what waits, and end; where it goes to.
    fn end(self) -> io::Result<W> {
        drop(self.queue);
        self.thread.join().unwrap_or_else(|_| Err(gone()))
    }
}

/// Sends a stream by some lanes.
pub struct Outlet<W> {
    /// `None`: it failed.
    lanes: Vec<Option<Lane<W>>>,
    /// The next item's number.
    next: usize,
    piece: Vec<u8>,
    packed: Arc<AtomicU64>,
}

impl<W: Write + Send + 'static> Outlet<W> {
    /// By these connections, one at the least.
    pub fn new(connections: Vec<W>, compression: Compression) -> Self {
        let packed = Arc::new(AtomicU64::new(0));
        let lane = |mut to: W| {
            let (queue, items) = sync_channel(WAITING);
            let packed = Arc::clone(&packed);
            let thread = thread::spawn(move || {
                for item in items {
                    let bytes = put_item(&mut to, &item, compression)?;
                    packed.fetch_add(bytes, Ordering::Relaxed);
                }
                Ok(to)
            });
            Some(Lane { queue, thread })
        };
        Self {
            lanes: connections.into_iter().map(lane).collect(),
            next: 0,
            piece: Vec::with_capacity(PIECE),
            packed,
        }
    }

    /// Bytes that went out.
    pub fn packed(&self) -> u64 {
        self.packed.load(Ordering::Relaxed)
    }

    fn give_to(&mut self, lane: usize, item: Item) -> io::Result<()> {
        let slot = self.lanes.get_mut(lane).ok_or_else(gone)?;
        match slot.as_ref().map(|lane| lane.queue.send(item)) {
            Some(Ok(())) => Ok(()),
            // Its thread ended, which it does only for an error.
            _ => Err(slot.take().map_or_else(gone, |lane| match lane.end() {
                Err(error) => error,
                Ok(_) => gone(),
            })),
        }
    }

    fn give(&mut self, item: Item) -> io::Result<()> {
        let lane = self.next % self.lanes.len().max(1);
        self.next = self.next.wrapping_add(1);
        self.give_to(lane, item)
    }

    fn send_piece(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.give(Item::Piece(piece))
    }

    /// Asks the other end to say when it has come here.
    pub fn mark(&mut self) -> io::Result<()> {
        self.send_piece()?;
        self.give(Item::Mark)
    }

    /// Ends the stream: all of it is sent. Gives the connections back, which should last until the
    /// other end has read them.
    pub fn finish(mut self) -> io::Result<(Vec<W>, u64)> {
        self.send_piece()?;
        for lane in 0..self.lanes.len() {
            self.give_to(lane, Item::End)?;
        }
        let lanes = self.lanes.into_iter().flatten().map(Lane::end);
        let connections = lanes.collect::<io::Result<_>>()?;
        Ok((connections, self.packed.load(Ordering::Relaxed)))
    }
}

impl<W: Write + Send + 'static> Write for Outlet<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE.saturating_sub(self.piece.len());
        let (taken, _) = bytes.split_at(bytes.len().min(room));
        self.piece.extend_from_slice(taken);
        if self.piece.len() >= PIECE {
            self.send_piece()?;
        }
        Ok(taken.len())
    }

    /// Hands over to the lanes what there is, and does not wait for them.
    fn flush(&mut self) -> io::Result<()> {
        self.send_piece()
    }
}

/// The items of a stream that comes by these connections, in order. The first connection has
/// lane 0; `caught` is called at each mark.
pub fn inlet<'a, R: Read + Send + 'static>(
    connections: Vec<R>,
    caught: &'a mut dyn FnMut() -> io::Result<()>,
) -> impl Iterator<Item = io::Result<Item>> + 'a {
    let lane = |from: R| {
        let (queue, received) = sync_channel(WAITING);
        thread::spawn(move || {
            // Nobody takes it: the move is over.
            let _ = items(from).try_for_each(|item| queue.send(item));
        });
        received
    };
    let mut inlet = Inlet {
        lanes: connections.into_iter().map(lane).collect(),
        next: 0,
        caught,
    };
    until_end(move || inlet.item())
}

/// The receiving end of some lanes.
struct Inlet<'a> {
    lanes: Vec<Receiver<io::Result<Item>>>,
    next: usize,
    caught: &'a mut dyn FnMut() -> io::Result<()>,
}

impl Inlet<'_> {
    fn item(&mut self) -> io::Result<Item> {
        let lane = self.next % self.lanes.len().max(1);
        self.next = self.next.wrapping_add(1);
        let lane = self.lanes.get(lane).ok_or_else(gone)?;
        let item = lane.recv().unwrap_or_else(|_| Err(gone()))?;
        match item {
            Item::Mark => (self.caught)()?,
            Item::Piece(_) => {}
            Item::End => {
                // It came by this lane and has to be the next thing on the others.
                let others = self
                    .lanes
                    .iter()
                    .filter(|&other| !std::ptr::eq(other, lane));
                for other in others {
                    match other.recv() {
                        Ok(Ok(Item::End)) => {}
                        Ok(Err(error)) => return Err(error),
                        _ => {
                            let why = "the connections of the stream do not end together";
                            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                        }
                    }
                }
            }
        }
        Ok(item)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::super::wire::StreamReader;
    use super::*;
    use proptest::prelude::*;

    fn pairs(lanes: usize) -> (Vec<UnixStream>, Vec<UnixStream>) {
        (0..lanes)
            .map(|_| UnixStream::pair().expect("sockets"))
            .unzip()
    }

    /// Each piece tells which it is; the lanes are not alike.
    struct Slow(UnixStream, u32);

    impl Read for Slow {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(std::time::Duration::from_micros(u64::from(self.1)));
            self.0.read(out)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn streams_come_through(
            seed: u8,
            lanes in 1usize..5,
            lengths in proptest::collection::vec(0usize..2 << 20, 1..6),
            step in 1usize..200_000,
        ) {
            for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
                let total: usize = lengths.iter().sum();
                let data: Vec<u8> = (0..total).map(|at| (at / 7) as u8 ^ (at >> 16) as u8 ^ seed).collect();
                let (near, far) = pairs(lanes);
                let (sent, lengths, rounds) = (data.clone(), lengths.clone(), lengths.len());
                let source = std::thread::spawn(move || {
                    let mut outlet = Outlet::new(near, compression);
                    let mut rest = &sent[..];
                    for length in lengths {
                        let (round, later) = rest.split_at(length);
                        round.chunks(step).try_for_each(|part| outlet.write_all(part)).expect("sent");
                        outlet.mark().expect("sent");
                        rest = later;
                    }
                    outlet.finish().expect("sent")
                });
                let mut marks = 0;
                let mut caught = || { marks += 1; Ok(()) };
                let far = far.into_iter().zip((0..lanes as u32).map(|lane| lane * 30 % 70));
                let far = far.map(|(far, delay)| Slow(far, delay)).collect();
                let mut reader = StreamReader::of(inlet(far, &mut caught));
                let mut back = vec![0; total];
                reader.read_exact(&mut back).expect("all");
                prop_assert!(back == data);
                reader.finish().expect("the end");
                prop_assert_eq!(marks, rounds);
                prop_assert_eq!(source.join().expect("no panic").0.len(), lanes);
            }
        }
    }

    #[test]
    fn marks_are_met_when_all_before_them_was_read() {
        let (near, far) = pairs(3);
        let mut outlet = Outlet::new(near, Compression::None);
        let mut read = Vec::new();
        let writer = std::thread::spawn(move || {
            for round in 1..5u8 {
                outlet
                    .write_all(&vec![round; 700_000 * usize::from(round)])
                    .expect("sent");
                outlet.mark().expect("sent");
            }
            outlet.finish().expect("sent")
        });
        let seen = std::cell::RefCell::new(Vec::new());
        let count = std::cell::Cell::new(0usize);
        let mut caught = || {
            seen.borrow_mut().push(count.get());
            Ok(())
        };
        let mut reader = StreamReader::of(inlet(far, &mut caught));
        let mut part = vec![0; 50_000];
        loop {
            let got = reader.read(&mut part).expect("the stream");
            if got == 0 {
                break;
            }
            count.set(count.get() + got);
            read.extend_from_slice(&part[..got]);
        }
        drop(reader);
        assert_eq!(*seen.borrow(), [700_000, 2_100_000, 4_200_000, 7_000_000]);
        assert!(read.is_sorted());
        writer.join().expect("no panic");
    }

    #[test]
    fn a_lane_that_dies_ends_it_at_both_ends() {
        let (near, mut far) = pairs(3);
        drop(far.remove(1));
        let mut outlet = Outlet::new(near, Compression::None);
        let noise: Vec<u8> = (0..16 << 20).map(|at: u32| (at % 251) as u8).collect();
        let reader = std::thread::spawn(move || {
            let mut caught = || Ok(());
            // The third lane is taken for the second.
            let mut reader = StreamReader::of(inlet(far, &mut caught));
            io::copy(&mut reader, &mut io::sink())
        });
        outlet
            .write_all(&noise)
            .and_then(|()| outlet.finish().map(drop))
            .expect_err("a lane is gone");
        reader.join().expect("no panic").expect_err("it ends early");
    }

    #[test]
    fn lanes_that_do_not_end_together_are_refused() {
        for second in [&[0, 0, 0, 0, 6][..], &[1, 0, 0, 0, 2, 7], &[]] {
            let (near, far) = pairs(2);
            for (mut near, frames) in near.into_iter().zip([&[0, 0, 0, 0, 5], second]) {
                near.write_all(frames).expect("a few bytes");
            }
            let mut caught = || Ok(());
            let reader = StreamReader::of(inlet(far, &mut caught));
            reader.finish().expect_err("not together");
        }
    }
}
