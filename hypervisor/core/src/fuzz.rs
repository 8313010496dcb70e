//! Bytes from a fuzzer, taken as choices.

/// What is left of a fuzzer's input.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    /// The next byte; `None` at the end.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below `end`, which is 1 to 256; `None` at the end.
    pub fn below(&mut self, end: u16) -> Option<u16> {
        Some(u16::from(self.byte()?) % end.max(1))
    }

    /// One of some; `None` at the end, or if there are none.
    pub fn one_of<T: Copy>(&mut self, list: &[T]) -> Option<T> {
        let at = self.below(list.len() as u16)?;
        list.get(usize::from(at)).copied()
    }

    /// Eight bytes as a number; `None` at the end.
    pub fn word(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*first))
    }
}
