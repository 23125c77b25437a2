// SPDX-License-Identifier: GPL-2.0

//! Taking little-endian numbers off the front of bytes, and putting them one after the other.

/// What is left to be read.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `N` bytes. `None`, and nothing is taken, when there are fewer.
    pub(super) fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(array)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().copied().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().copied().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().copied().map(u64::from_le_bytes)
    }

    /// Everything that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// `Some` when nothing is left.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// `N` bytes, filled from the front; what is not filled is 0.
pub(super) struct Writer<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Writer<N> {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; N],
            filled: 0,
        }
    }

    /// Appends `bytes`. Each caller writes a layout of fixed length that fits, which its tests
    /// see; what would not fit is left out.
    pub(super) fn put(mut self, bytes: &[u8]) -> Self {
        let end = self.filled.saturating_add(bytes.len());
        if let Some(place) = self.bytes.get_mut(self.filled..end) {
            place.copy_from_slice(bytes);
            self.filled = end;
        }
        self
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn u64(self, value: u64) -> Self {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn finish(self) -> [u8; N] {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_there_and_no_more() {
        let mut reader = Reader::new(&[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(reader.u64(), None);
        assert_eq!(reader.u16(), Some(0x0201));
        assert_eq!(reader.u32(), Some(0x0605_0403));
        assert_eq!(reader.u16(), None);
        assert_eq!(reader.rest(), [7]);
        assert_eq!(Reader::new(&[0]).end(), None);
        assert_eq!(Reader::new(&[]).end(), Some(()));
    }

    #[test]
    fn puts_numbers_one_after_the_other() {
        let writer = Writer::<8>::new().u16(0x0102).u32(0x0304_0506);
        assert_eq!(writer.u64(9).finish(), [2, 1, 6, 5, 4, 3, 0, 0]);
    }
}
