// SPDX-License-Identifier: GPL-2.0

//! What must be in a page: the words that were last written to it, kept as who wrote where, so that
//! a page costs a few numbers and not another page.

use crate::memory::WORDS;

/// What the injector leaves in a frame, as a word.
pub(super) const PATTERN: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// A whole page.
pub(super) type Image = [u64; WORDS as usize];

/// What a key writes at a place in a page. The key 0 writes zeros.
fn ink(key: u64, index: u64) -> u64 {
    match key {
        0 => 0,
        key => key ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

/// So many words of a key, from a place on.
pub(super) fn words(key: u64, from: u64, len: u64) -> Vec<u64> {
    (from..from + len).map(|index| ink(key, index)).collect()
}

/// The contents of one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    base: u64,
    /// First word, how many, key; later ones on top.
    strokes: Vec<(u64, u64, u64)>,
}

impl Content {
    /// A page written whole.
    pub(super) fn of(key: u64) -> Self {
        Self {
            base: key,
            strokes: Vec::new(),
        }
    }

    /// Some words are written.
    pub(super) fn write(&mut self, from: u64, len: u64, key: u64) {
        if len == WORDS {
            *self = Self::of(key);
            return;
        }
        self.strokes
            .retain(|&(at, count, _)| at < from || at + count > from + len);
        self.strokes.push((from, len, key));
    }

    /// All words.
    pub(super) fn image(&self) -> Image {
        let mut image = [0; WORDS as usize];
        let all = (0, WORDS, self.base);
        for &(from, len, key) in std::iter::once(&all).chain(&self.strokes) {
            for index in from..from + len {
                image[index as usize] = ink(key, index);
            }
        }
        image
    }

    /// How many strokes lie on top of one another.
    pub(super) fn depth(&self) -> usize {
        self.strokes.len()
    }

    fn encode(&self, out: &mut Vec<u64>) {
        out.extend([self.base, self.strokes.len() as u64]);
        for &(from, len, key) in &self.strokes {
            out.extend([from, len, key]);
        }
    }

    fn decode(from: &mut impl Iterator<Item = u64>) -> Option<Self> {
        let mut content = Self::of(from.next()?);
        for _ in 0..from.next()? {
            content
                .strokes
                .push((from.next()?, from.next()?, from.next()?));
        }
        Some(content)
    }
}

/// What may be found in a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// What must be there.
    pub(super) now: Content,
    /// What may be there instead, since `MADV_FREE`: what was written since, on top of zeros; once for
    /// each time.
    pub(super) lazy: Vec<Content>,
    /// What may be on disk, since the last `fsync()`. It may only be found after an error; see
    /// [`is_from_disk`](Self::is_from_disk).
    pub(super) older: Vec<Content>,
}

impl Page {
    /// A page written whole.
    pub(super) fn of(key: u64) -> Self {
        Self {
            now: Content::of(key),
            lazy: Vec::new(),
            older: Vec::new(),
        }
    }

    /// Some words are written; `on_disk` if what was there may have been written back.
    pub(super) fn write(&mut self, (from, len, key): (u64, u64, u64), on_disk: bool) {
        if on_disk && self.older.last() != Some(&self.now) {
            self.older.push(self.now.clone());
        }
        self.now.write(from, len, key);
        if len == WORDS {
            self.lazy.clear();
        }
        for lazy in &mut self.lazy {
            lazy.write(from, len, key);
        }
    }

    /// The page is written whole by a device that does not say so. That does not take back `MADV_FREE`:
    /// the kernel goes by dirty bits, and io_uring sets none for its registered buffers.
    pub(super) fn write_unsaid(&mut self, key: u64) {
        self.now = Content::of(key);
    }

    /// `MADV_FREE`.
    pub(super) fn free(&mut self) {
        let zeros = Content::of(0);
        if !self.lazy.contains(&zeros) {
            self.lazy.push(zeros);
        }
    }

    /// Whether these bytes may be those of a page that an error has thrown out of the page cache and
    /// that was read from its disk again.
    ///
    /// The kernel writes a page back whenever it likes, also in the middle of a store, so on disk may
    /// be any version since the last `fsync()`, and of the next one a part. Who writes to the page
    /// before anybody has noticed, writes on top of that; and that may be written back, thrown out
    /// and read again. What is in a word then is what it had in one of these versions.
    pub(super) fn is_from_disk(&self, is: &Image) -> bool {
        if self.older.is_empty() {
            return false;
        }
        let versions: Vec<Image> = self.older.iter().map(Content::image).collect();
        let now = self.now.image();
        (0..WORDS as usize).all(|index| {
            is[index] == now[index] || versions.iter().any(|older| is[index] == older[index])
        })
    }

    /// Whether these bytes may be those of the injector, with what was written on top of them since.
    pub(super) fn is_garbage(&self, is: &Image) -> bool {
        let now = self.now.image();
        is.contains(&PATTERN) && (0..WORDS as usize).all(|i| is[i] == PATTERN || is[i] == now[i])
    }

    /// For sending.
    pub(super) fn encode(&self, out: &mut Vec<u64>) {
        self.now.encode(out);
        for list in [&self.lazy, &self.older] {
            out.push(list.len() as u64);
            list.iter().for_each(|content| content.encode(out));
        }
    }

    /// What [`encode`](Self::encode) has made.
    pub(super) fn decode(from: &mut impl Iterator<Item = u64>) -> Option<Self> {
        let now = Content::decode(from)?;
        let mut list = || {
            let count = from.next()?;
            (0..count)
                .map(|_| Content::decode(from))
                .collect::<Option<Vec<_>>>()
        };
        let (lazy, older) = (list()?, list()?);
        Some(Self { now, lazy, older })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn what_a_disk_may_have() {
        let mut page = Page::of(1);
        assert!(!page.is_from_disk(&page.now.image()), "nothing was written");
        let first = page.now.image();
        page.write((10, 100, 2), true);
        let second = page.now.image();
        page.write((50, 100, 3), true);
        // Whole versions.
        assert!(page.is_from_disk(&first) && page.is_from_disk(&second));
        // Written back in the middle of the second store.
        let mut torn = second;
        torn[50..70].copy_from_slice(&words(3, 50, 20));
        assert!(page.is_from_disk(&torn));
        // Lost after the first store, read from disk as it was before, and then written to.
        let mut upon = first;
        upon[50..150].copy_from_slice(&words(3, 50, 100));
        assert!(page.is_from_disk(&upon));
        // But no other bytes, and not those of another place or of before the fsync().
        let mut wrong = upon;
        wrong[200] ^= 1;
        assert!(!page.is_from_disk(&wrong));
        wrong[200] = first[201];
        assert!(!page.is_from_disk(&wrong));
        page.older.clear();
        page.write((0, 1, 4), true);
        assert!(!page.is_from_disk(&first) && !page.is_from_disk(&torn));
    }

    #[test]
    fn what_an_injector_leaves() {
        let mut page = Page::of(1);
        let old = page.now.image();
        page.write((10, 100, 2), false);
        let mut is = [PATTERN; WORDS as usize];
        assert!(page.is_garbage(&is));
        is[10..110].copy_from_slice(&words(2, 10, 100));
        assert!(page.is_garbage(&is));
        is[20] = old[20];
        assert!(!page.is_garbage(&is), "no older word");
        assert!(!page.is_garbage(&page.now.image()));
    }

    #[test]
    fn strokes_are_what_an_array_would_be() {
        let mut rng = Rng::new(7);
        let mut page = Page::of(rng.next_u64());
        page.free();
        let mut plain = words(page.now.base, 0, WORDS);
        let mut zeros = vec![0; WORDS as usize];
        for _ in 0..500 {
            let from = rng.below(WORDS);
            let len = 1 + rng.below((WORDS - from).min(90));
            let key = rng.next_u64() * rng.below(4).min(1);
            page.write((from, len, key), rng.below(9) == 0);
            for copy in [&mut plain, &mut zeros] {
                copy[from as usize..(from + len) as usize].copy_from_slice(&words(key, from, len));
            }
            assert_eq!(page.now.image()[..], plain);
            assert_eq!(page.lazy[0].image()[..], zeros);
        }
        let mut sent = Vec::new();
        page.encode(&mut sent);
        assert_eq!(Page::decode(&mut sent.into_iter()), Some(page));
    }
}
