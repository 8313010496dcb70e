//! The two rings of a console (`struct xencons_interface`): what the guest prints, and what is
//! typed to it.
//!
//! The guest may write the page at any time. Each index is read once; a ring that claims to
//! hold more than it can is emptied.

use overcast_core::machine::Frame;

/// Offset and bytes of `in`, what is typed.
const IN: usize = 0;
const IN_SIZE: u32 = 1024;
/// Offset and bytes of `out`, what is printed.
const OUT: usize = 1024;
const OUT_SIZE: u32 = 2048;
/// Offsets of the indices, which run freely.
const IN_CONS: usize = 3072;
const IN_PROD: usize = 3076;
const OUT_CONS: usize = 3080;
const OUT_PROD: usize = 3084;

/// A console's page.
#[derive(Clone, Copy)]
pub struct Ring<'a>(&'a Frame);

impl<'a> Ring<'a> {
    /// Of a page.
    pub fn new(page: &'a Frame) -> Self {
        Self(page)
    }

    /// Takes out all that the guest has printed; whether that was anything, for which the guest
    /// is to have an event.
    pub fn take_output(self, to: &mut Vec<u8>) -> bool {
        let (cons, prod) = (self.0.load_u32(OUT_CONS), self.0.load_u32(OUT_PROD));
        let count = prod.wrapping_sub(cons);
        if count == 0 {
            return false;
        }
        if count <= OUT_SIZE {
            to.extend((0..count).map(|n| {
                let at = cons.wrapping_add(n) % OUT_SIZE;
                self.0.load_u8(OUT + at as usize)
            }));
        }
        self.0.store_u32(OUT_CONS, prod);
        true
    }

    /// Types to the guest; gives how many bytes there was room for.
    pub fn put_input(self, data: &[u8]) -> usize {
        let (cons, prod) = (self.0.load_u32(IN_CONS), self.0.load_u32(IN_PROD));
        let room = IN_SIZE.saturating_sub(prod.wrapping_sub(cons));
        let mut end = prod;
        for (&byte, _) in data.iter().zip(0..room) {
            self.0.store_u8(IN + (end % IN_SIZE) as usize, byte);
            end = end.wrapping_add(1);
        }
        self.0.store_u32(IN_PROD, end);
        end.wrapping_sub(prod) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// The guest's end.
    fn print(page: &Frame, data: &[u8]) -> usize {
        let (cons, prod) = (page.load_u32(OUT_CONS), page.load_u32(OUT_PROD));
        let room = OUT_SIZE - prod.wrapping_sub(cons);
        let count = data.len().min(room as usize);
        for (n, &byte) in data[..count].iter().enumerate() {
            let at = prod.wrapping_add(n as u32) % OUT_SIZE;
            page.store_u8(OUT + at as usize, byte);
        }
        page.store_u32(OUT_PROD, prod.wrapping_add(count as u32));
        count
    }

    fn typed(page: &Frame) -> Vec<u8> {
        let (cons, prod) = (page.load_u32(IN_CONS), page.load_u32(IN_PROD));
        page.store_u32(IN_CONS, prod);
        (0..prod.wrapping_sub(cons))
            .map(|n| page.load_u8(IN + (cons.wrapping_add(n) % IN_SIZE) as usize))
            .collect()
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order_wherever_the_indices_are(
            start in any::<u32>(),
            steps in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..2500)), 1..20),
        ) {
            let page = Frame::default();
            for index in [IN_CONS, IN_PROD, OUT_CONS, OUT_PROD] {
                page.store_u32(index, start);
            }
            let ring = Ring::new(&page);
            let (mut printed, mut got) = (Vec::new(), Vec::new());
            let mut waiting = VecDeque::<u8>::new();
            for (out, data) in steps {
                if out {
                    let count = print(&page, &data);
                    printed.extend_from_slice(&data[..count]);
                    let had = ring.take_output(&mut got);
                    prop_assert_eq!(had, count > 0);
                    prop_assert_eq!(&got, &printed);
                } else {
                    let count = ring.put_input(&data);
                    prop_assert_eq!(count, data.len().min(IN_SIZE as usize - waiting.len()));
                    waiting.extend(&data[..count]);
                    if data.len() % 2 == 0 {
                        prop_assert_eq!(typed(&page), waiting.drain(..).collect::<Vec<_>>());
                    }
                }
            }
        }

        #[test]
        fn a_guest_cannot_make_it_read_or_write_beyond(
            words in proptest::collection::vec(any::<u32>(), 4), data in "[a-z]{0,2000}",
        ) {
            let page = Frame::default();
            for (index, word) in [IN_CONS, IN_PROD, OUT_CONS, OUT_PROD].into_iter().zip(words) {
                page.store_u32(index, word);
            }
            let before = (page.load_u32(OUT_PROD), page.load_u32(IN_CONS));
            let mut out = Vec::new();
            Ring::new(&page).take_output(&mut out);
            prop_assert!(out.len() <= OUT_SIZE as usize);
            prop_assert!(Ring::new(&page).put_input(data.as_bytes()) <= IN_SIZE as usize);
            prop_assert_eq!(before, (page.load_u32(OUT_PROD), page.load_u32(IN_CONS)));
            prop_assert_eq!(page.load_u32(OUT_CONS), before.0);
        }
    }
}
