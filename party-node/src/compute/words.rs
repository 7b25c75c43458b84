//! Vectors of ring words, each in the memory of the device that computes with it.
//!
//! An operation runs where its first operand lives; one that lives elsewhere is brought there. Protocols name no place:
//! what a device made stays on it until a message or an opening takes it to the host.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// A vector of ring words.
#[derive(Clone)]
pub struct Words(Memory);

/// Where words lie.
#[derive(Clone)]
enum Memory {
    Host(Vec<u64>),
}

/// Words that are read where they lie.
#[derive(Clone, Copy)]
pub enum Slice<'a> {
    /// In this process's memory.
    Host(&'a [u64]),
}

/// Words that are changed where they lie.
pub enum SliceMut<'a> {
    /// In this process's memory.
    Host(&'a mut [u64]),
}

impl Words {
    /// No words.
    pub const fn none() -> Self {
        Self(Memory::Host(Vec::new()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Memory::Host(words) => words.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, to read.
    pub fn all(&self) -> Slice<'_> {
        match &self.0 {
            Memory::Host(words) => Slice::Host(words),
        }
    }

    /// All of them, to change.
    pub fn all_mut(&mut self) -> SliceMut<'_> {
        match &mut self.0 {
            Memory::Host(words) => SliceMut::Host(words),
        }
    }

    /// Some of them, to read.
    pub fn at(&self, range: Range<usize>) -> Slice<'_> {
        self.all().at(range)
    }

    /// Some of them, to change.
    pub fn at_mut(&mut self, range: Range<usize>) -> SliceMut<'_> {
        match &mut self.0 {
            Memory::Host(words) => SliceMut::Host(&mut words[range]),
        }
    }

    /// The words in this process's memory.
    pub fn into_host(self) -> Vec<u64> {
        match self.0 {
            Memory::Host(words) => words,
        }
    }

    /// Puts others behind these.
    pub fn append(&mut self, other: &Words) {
        match &mut self.0 {
            Memory::Host(words) => words.extend_from_slice(&other.all().on_host()),
        }
    }

    /// Words joined end to end, where the first of them lie.
    pub fn concat<'a>(pieces: impl IntoIterator<Item = Slice<'a>>) -> Self {
        let pieces: Vec<Slice<'a>> = pieces.into_iter().collect();
        let mut all = Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum());
        pieces.iter().for_each(|piece| all.extend_from_slice(&piece.on_host()));
        all.into()
    }
}

impl<'a> Slice<'a> {
    /// How many words there are.
    pub fn len(self) -> usize {
        match self {
            Self::Host(words) => words.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Some of them.
    #[must_use]
    pub fn at(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(words) => Self::Host(&words[range]),
        }
    }

    /// A copy of its own, in the same place.
    pub fn to_words(self) -> Words {
        match self {
            Self::Host(words) => words.to_vec().into(),
        }
    }

    /// The words in this process's memory.
    pub fn on_host(self) -> Cow<'a, [u64]> {
        match self {
            Self::Host(words) => Cow::Borrowed(words),
        }
    }

    /// Words of the host, brought to where these are.
    pub fn beside(self, words: Vec<u64>) -> Words {
        match self {
            Self::Host(_) => words.into(),
        }
    }

    /// What a function makes of the words: it runs on the host, and its result goes where they are.
    pub fn mapped(self, function: impl FnOnce(&[u64]) -> Vec<u64>) -> Words {
        match self {
            Self::Host(words) => function(words).into(),
        }
    }
}

impl SliceMut<'_> {
    /// How many words there are.
    pub fn len(&self) -> usize {
        self.reading().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same words, to read.
    pub fn reading(&self) -> Slice<'_> {
        match self {
            Self::Host(words) => Slice::Host(words),
        }
    }

    /// The same words, for a shorter time.
    pub fn reborrow(&mut self) -> SliceMut<'_> {
        match self {
            Self::Host(words) => SliceMut::Host(words),
        }
    }

    /// Some of them.
    pub fn at(&mut self, range: Range<usize>) -> SliceMut<'_> {
        match self {
            Self::Host(words) => SliceMut::Host(&mut words[range]),
        }
    }

    /// Changes the words by a function that runs on the host.
    pub fn change(self, function: impl FnOnce(&mut [u64])) {
        match self {
            Self::Host(words) => function(words),
        }
    }
}

impl Default for Words {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words(<{}>)", self.len())
    }
}

impl PartialEq for Words {
    fn eq(&self, other: &Self) -> bool {
        self.all().on_host() == other.all().on_host()
    }
}

impl Eq for Words {}

impl From<Vec<u64>> for Words {
    fn from(words: Vec<u64>) -> Self {
        Self(Memory::Host(words))
    }
}

impl FromIterator<u64> for Words {
    fn from_iter<I: IntoIterator<Item = u64>>(words: I) -> Self {
        words.into_iter().collect::<Vec<_>>().into()
    }
}

impl<'a> From<&'a Words> for Slice<'a> {
    fn from(words: &'a Words) -> Self {
        words.all()
    }
}

impl<'a> From<&'a [u64]> for Slice<'a> {
    fn from(words: &'a [u64]) -> Self {
        Self::Host(words)
    }
}

impl<'a> From<&'a Vec<u64>> for Slice<'a> {
    fn from(words: &'a Vec<u64>) -> Self {
        Self::Host(words)
    }
}

impl<'a> From<&'a Words> for Cow<'a, [u64]> {
    fn from(words: &'a Words) -> Self {
        words.all().on_host()
    }
}

impl<'a> From<&'a mut Words> for SliceMut<'a> {
    fn from(words: &'a mut Words) -> Self {
        words.all_mut()
    }
}

impl<'a> From<&'a mut [u64]> for SliceMut<'a> {
    fn from(words: &'a mut [u64]) -> Self {
        Self::Host(words)
    }
}

impl<'a> From<&'a mut Vec<u64>> for SliceMut<'a> {
    fn from(words: &'a mut Vec<u64>) -> Self {
        Self::Host(words)
    }
}
