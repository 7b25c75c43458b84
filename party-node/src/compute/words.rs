//! Vectors of ring words, each in the memory of the device that computes with it.
//!
//! An operation runs where its first operand lives; one that lives elsewhere is brought there. Protocols name no place:
//! what a device made stays on it until a message or an opening takes it to the host.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

#[cfg(feature = "cuda")]
use super::cuda::{Gpu, Memory as GpuMemory, Reading, Span, SpanMut};

/// A vector of ring words.
#[derive(Clone)]
pub struct Words(Memory);

/// Where words lie.
#[derive(Clone)]
enum Memory {
    Host(Vec<u64>),
    #[cfg(feature = "cuda")]
    Gpu(GpuMemory),
}

/// Words that are read where they lie.
#[derive(Clone, Copy)]
pub enum Slice<'a> {
    /// In this process's memory.
    Host(&'a [u64]),
    /// In a GPU's.
    #[cfg(feature = "cuda")]
    Gpu(&'a Gpu, Span<'a>),
}

/// Words that are changed where they lie.
pub enum SliceMut<'a> {
    /// In this process's memory.
    Host(&'a mut [u64]),
    /// In a GPU's.
    #[cfg(feature = "cuda")]
    Gpu(Gpu, SpanMut<'a>),
}

/// Bytes of a message.
pub enum Payload<'a> {
    /// They are here.
    Now(Cow<'a, [u8]>),
    /// They are on their way from a GPU.
    #[cfg(feature = "cuda")]
    Later(Reading),
}

impl Payload<'_> {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Now(bytes) => bytes.len(),
            #[cfg(feature = "cuda")]
            Self::Later(reading) => reading.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
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
            #[cfg(feature = "cuda")]
            Memory::Gpu(words) => words.len(),
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
            #[cfg(feature = "cuda")]
            Memory::Gpu(words) => Slice::Gpu(words.gpu(), words.span()),
        }
    }

    /// All of them, to change.
    pub fn all_mut(&mut self) -> SliceMut<'_> {
        match &mut self.0 {
            Memory::Host(words) => SliceMut::Host(words),
            #[cfg(feature = "cuda")]
            Memory::Gpu(words) => SliceMut::Gpu(words.gpu().clone(), words.span_mut()),
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
            #[cfg(feature = "cuda")]
            Memory::Gpu(words) => SliceMut::Gpu(words.gpu().clone(), words.slice_mut(range)),
        }
    }

    /// The words in this process's memory.
    pub fn into_host(self) -> Vec<u64> {
        match self.0 {
            Memory::Host(words) => words,
            #[cfg(feature = "cuda")]
            Memory::Gpu(words) => fetched(words.gpu(), words.span()),
        }
    }

    /// Puts others behind these.
    pub fn append(&mut self, other: &Words) {
        match &mut self.0 {
            Memory::Host(words) => words.extend_from_slice(&other.all().on_host()),
            #[cfg(feature = "cuda")]
            Memory::Gpu(words) => *words = words.gpu().concat(&[words.span(), other.all().on(words.gpu()).span()]),
        }
    }

    /// Words joined end to end, where the first of them lie.
    pub fn concat<'a>(pieces: impl IntoIterator<Item = Slice<'a>>) -> Self {
        let pieces: Vec<Slice<'a>> = pieces.into_iter().collect();
        #[cfg(feature = "cuda")]
        if let Some(&Slice::Gpu(gpu, _)) = pieces.first() {
            let pieces: Vec<_> = pieces.iter().map(|piece| piece.on(gpu)).collect();
            return gpu.concat(&pieces.iter().map(OnGpu::span).collect::<Vec<_>>()).into();
        }
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
            #[cfg(feature = "cuda")]
            Self::Gpu(_, words) => words.len(),
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
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu, words) => Self::Gpu(gpu, words.slice(range)),
        }
    }

    /// A copy of its own, in the same place.
    pub fn to_words(self) -> Words {
        match self {
            Self::Host(words) => words.to_vec().into(),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu, words) => gpu.copied(words).into(),
        }
    }

    /// The words as bytes of a message.
    pub fn leaving(self) -> Payload<'a> {
        match self {
            Self::Host(words) => Payload::Now(Cow::Borrowed(bytemuck::cast_slice(words))),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu, words) => Payload::Later(gpu.start_read(words, 8 * words.len())),
        }
    }

    /// The words in this process's memory, for other devices to work on.
    pub fn fetched(self) -> Cow<'a, [u64]> {
        match self {
            Self::Host(words) => Cow::Borrowed(words),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu, words) => Cow::Owned(fetched(gpu, words)),
        }
    }

    /// The words in this process's memory, to compute with them there: for what a GPU has no kernel.
    pub fn on_host(self) -> Cow<'a, [u64]> {
        match self {
            Self::Host(words) => Cow::Borrowed(words),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu, words) => Cow::Owned(gpu.visit(words)),
        }
    }

    /// Words of the host, brought to where these are.
    pub fn beside(self, words: Vec<u64>) -> Words {
        match self {
            Self::Host(_) => words.into(),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu, _) => gpu.upload(&words).into(),
        }
    }

    /// What a function makes of the words: it runs on the host, and its result goes where they are.
    pub fn mapped(self, function: impl FnOnce(&[u64]) -> Vec<u64>) -> Words {
        match self {
            Self::Host(words) => function(words).into(),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu, words) => gpu.upload(&function(&gpu.visit(words))).into(),
        }
    }

    /// The words on a GPU.
    #[cfg(feature = "cuda")]
    pub(super) fn on(self, gpu: &Gpu) -> OnGpu<'a> {
        match self {
            Self::Host(words) => OnGpu::Brought(gpu.upload(words)),
            Self::Gpu(_, words) => OnGpu::There(words),
        }
    }
}

/// Words on a GPU, brought there or there before.
#[cfg(feature = "cuda")]
pub(super) enum OnGpu<'a> {
    There(Span<'a>),
    Brought(GpuMemory),
}

#[cfg(feature = "cuda")]
impl OnGpu<'_> {
    pub(super) fn span(&self) -> Span<'_> {
        match self {
            Self::There(words) => *words,
            Self::Brought(words) => words.span(),
        }
    }
}

/// The words of a GPU in this process's memory; zeros if it has failed, which it remembers. A lane asks its device before
/// anything leaves.
#[cfg(feature = "cuda")]
fn fetched(gpu: &Gpu, words: Span<'_>) -> Vec<u64> {
    gpu.download(words).unwrap_or_else(|_| vec![0; words.len()])
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
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu, words) => Slice::Gpu(gpu, words.span()),
        }
    }

    /// The same words, for a shorter time.
    pub fn reborrow(&mut self) -> SliceMut<'_> {
        match self {
            Self::Host(words) => SliceMut::Host(words),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu, words) => SliceMut::Gpu(gpu.clone(), words.again()),
        }
    }

    /// Some of them.
    pub fn at(&mut self, range: Range<usize>) -> SliceMut<'_> {
        match self {
            Self::Host(words) => SliceMut::Host(&mut words[range]),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu, words) => SliceMut::Gpu(gpu.clone(), words.again().slice(range)),
        }
    }

    /// Changes the words by a function that runs on the host.
    pub fn change(self, function: impl FnOnce(&mut [u64])) {
        match self {
            Self::Host(words) => function(words),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu, words) => {
                let mut changed = gpu.visit(words.span());
                function(&mut changed);
                gpu.write(words, &changed);
            }
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

#[cfg(feature = "cuda")]
impl From<GpuMemory> for Words {
    fn from(words: GpuMemory) -> Self {
        Self(Memory::Gpu(words))
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
