//! A CPU's timers: who is to be told when the clock passes what.
//!
//! A queue is plain data: the machine keeps one for each CPU behind a lock, sets
//! the hardware timer to [`TimerQueue::next_deadline`] after each change, and
//! takes out what has expired when the hardware fires. There is no periodic tick.
//!
//! # Invariants
//!
//! - A token is in the queue at most once; adding it again moves its deadline.
//! - `heap` is a binary heap of slots by deadline, the earliest first; each
//!   used slot knows its place in it. `index` holds the same slots sorted by token.
//! - Memory is allocated only when the queue is made or [`TimerQueue::reserve`]d,
//!   so that nothing else can fail for lack of it.

use alloc::vec::Vec;

use crate::error::{Error, Result};

#[derive(Clone, Copy)]
struct Slot<T> {
    token: T,
    deadline: u64,
    /// Place in `heap`, or the next unused slot.
    place: u32,
}

/// Timers in the order of their deadlines. `T` names one timer: what kind it
/// is and of whom.
pub struct TimerQueue<T> {
    slots: Vec<Slot<T>>,
    unused: Vec<u32>,
    heap: Vec<u32>,
    index: Vec<u32>,
    capacity: usize,
}

impl<T: Copy + Ord> TimerQueue<T> {
    /// A queue for at most `capacity` timers at a time.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            slots: Vec::with_capacity(capacity),
            unused: Vec::with_capacity(capacity),
            heap: Vec::with_capacity(capacity),
            index: Vec::with_capacity(capacity),
            capacity,
        }
    }

    /// Makes room for `additional` timers more, as when a domain is created.
    ///
    /// # Errors
    ///
    /// `NoMemory`; the queue is as before.
    pub fn reserve(&mut self, additional: usize) -> Result<()> {
        let capacity = self
            .capacity
            .checked_add(additional)
            .ok_or(Error::NoMemory)?;
        let more = |have: usize| capacity.saturating_sub(have);
        let n = self.slots.len();
        self.slots
            .try_reserve(more(n))
            .map_err(|_| Error::NoMemory)?;
        for list in [&mut self.unused, &mut self.heap, &mut self.index] {
            list.try_reserve(more(list.len()))
                .map_err(|_| Error::NoMemory)?;
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Takes back room that was made by [`Self::reserve`]; its timers are not set any more.
    pub fn unreserve(&mut self, fewer: usize) {
        self.capacity = self.capacity.saturating_sub(fewer);
    }

    /// How many timers are set.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Sets a timer to `deadline` (system time in ns), moving it if it is set.
    /// Gives `true` if it is now the first, so that the hardware is to be set anew.
    ///
    /// # Errors
    ///
    /// `NoMemory` if the queue is full.
    pub fn set(&mut self, token: T, deadline: u64) -> Result<bool> {
        let slot = match self.find(token) {
            Ok(at) => {
                let slot = self.index[at];
                let was_first = self.heap.first() == Some(&slot);
                self.slots[slot as usize].deadline = deadline;
                let place = self.slots[slot as usize].place as usize;
                self.sift_down(place);
                self.sift_up(self.slots[slot as usize].place as usize);
                return Ok(was_first || self.heap.first() == Some(&slot));
            }
            Err(at) => {
                if self.heap.len() >= self.capacity {
                    return Err(Error::NoMemory);
                }
                let new = Slot {
                    token,
                    deadline,
                    place: self.heap.len() as u32,
                };
                let slot = match self.unused.pop() {
                    Some(slot) => {
                        self.slots[slot as usize] = new;
                        slot
                    }
                    None => {
                        self.slots.push(new);
                        self.slots.len() as u32 - 1
                    }
                };
                self.index.insert(at, slot);
                slot
            }
        };
        self.heap.push(slot);
        self.sift_up(self.heap.len() - 1);
        Ok(self.heap.first() == Some(&slot))
    }

    /// Takes a timer out; gives its deadline if it was set.
    pub fn cancel(&mut self, token: T) -> Option<u64> {
        let at = self.find(token).ok()?;
        let place = self.slots[self.index[at] as usize].place as usize;
        Some(self.remove(place, at).1)
    }

    /// The deadline of a timer, if it is set.
    pub fn deadline(&self, token: T) -> Option<u64> {
        let at = self.find(token).ok()?;
        Some(self.slots[self.index[at] as usize].deadline)
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<u64> {
        let first = *self.heap.first()?;
        Some(self.slots[first as usize].deadline)
    }

    /// Takes out the earliest timer if its deadline is not after `now`.
    pub fn pop_expired(&mut self, now: u64) -> Option<(T, u64)> {
        let first = *self.heap.first()?;
        let slot = self.slots[first as usize];
        if slot.deadline > now {
            return None;
        }
        let at = self.find(slot.token).ok()?;
        Some(self.remove(0, at))
    }

    /// Takes out the earliest timer whatever its deadline, as when the CPU goes
    /// off line and its timers move to another.
    pub fn pop(&mut self) -> Option<(T, u64)> {
        self.pop_expired(u64::MAX)
    }

    /// Where the token is in `index`, or where it belongs.
    fn find(&self, token: T) -> core::result::Result<usize, usize> {
        self.index
            .binary_search_by(|&slot| self.slots[slot as usize].token.cmp(&token))
    }

    fn remove(&mut self, place: usize, at: usize) -> (T, u64) {
        let slot = self.index.remove(at);
        self.heap.swap_remove(place);
        if let Some(&moved) = self.heap.get(place) {
            self.slots[moved as usize].place = place as u32;
            self.sift_down(place);
            self.sift_up(self.slots[moved as usize].place as usize);
        }
        self.unused.push(slot);
        let Slot {
            token, deadline, ..
        } = self.slots[slot as usize];
        (token, deadline)
    }

    fn key(&self, place: usize) -> u64 {
        self.slots[self.heap[place] as usize].deadline
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for place in [a, b] {
            let slot = self.heap[place] as usize;
            self.slots[slot].place = place as u32;
        }
    }

    fn sift_up(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.key(parent) <= self.key(at) {
                break;
            }
            self.swap(at, parent);
            at = parent;
        }
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let left = 2 * at + 1;
            if left >= self.heap.len() {
                break;
            }
            let right = left + 1;
            let least = if right < self.heap.len() && self.key(right) < self.key(left) {
                right
            } else {
                left
            };
            if self.key(at) <= self.key(least) {
                break;
            }
            self.swap(at, least);
            at = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn earliest_first() {
        let mut queue = TimerQueue::with_capacity(3);
        assert_eq!(queue.set(1, 30), Ok(true));
        assert_eq!(queue.set(2, 20), Ok(true));
        assert_eq!(queue.set(3, 40), Ok(false));
        assert_eq!(queue.set(4, 40), Err(Error::NoMemory));
        assert_eq!(queue.set(2, 50), Ok(true));
        assert_eq!(queue.next_deadline(), Some(30));
        assert_eq!(queue.pop_expired(29), None);
        assert_eq!(queue.pop_expired(30), Some((1, 30)));
        assert_eq!(queue.cancel(3), Some(40));
        assert_eq!(queue.cancel(3), None);
        assert_eq!(queue.pop(), Some((2, 50)));
        assert!(queue.is_empty());
        queue.reserve(1).unwrap();
        for n in 0..4 {
            queue.set(n, 0).unwrap();
        }
        assert_eq!(queue.set(9, 0), Err(Error::NoMemory));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn behaves_as_a_sorted_map(ops in prop::collection::vec((0u8..5, 0u8..20, 0u64..50), 0..200)) {
            let mut queue = TimerQueue::with_capacity(12);
            let mut model: BTreeMap<u8, u64> = BTreeMap::new();
            for (op, token, time) in ops {
                match op {
                    0 | 1 => {
                        let room = model.len() < 12 || model.contains_key(&token);
                        let result = queue.set(token, time);
                        prop_assert_eq!(result.is_ok(), room);
                        if room { model.insert(token, time); }
                    }
                    2 => prop_assert_eq!(queue.cancel(token), model.remove(&token)),
                    3 => prop_assert_eq!(queue.deadline(token), model.get(&token).copied()),
                    _ => match queue.pop_expired(time) {
                        Some((token, deadline)) => {
                            prop_assert!(deadline <= time);
                            prop_assert_eq!(model.values().min(), Some(&deadline));
                            prop_assert_eq!(model.remove(&token), Some(deadline));
                        }
                        None => prop_assert!(model.values().all(|&d| d > time)),
                    },
                }
                prop_assert_eq!(queue.next_deadline(), model.values().min().copied());
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }
}
