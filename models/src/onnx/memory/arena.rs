//! The arena from which ONNX Runtime takes the values of a run, and the part of it that is in memory.
//!
//! It follows `BFCArena` in onnxruntime/core/framework/bfc_arena.cc: regions that double in size, the best
//! fitting free chunk, and neighbours that merge when they are free. A region is address space at first. A
//! page counts once a chunk has covered it, and from then on, because the arena returns nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// The unit of chunks, in bytes.
const UNIT: usize = 256;
/// The size of the first region, in bytes.
const FIRST_REGION: usize = 1 << 20;
/// The size up to which regions double, in bytes.
const LAST_REGION: usize = 1 << 30;
/// A chunk is split if at least this many bytes remain, or half of the chunk.
const UNUSED_MAX: usize = 128 << 20;
/// The size of a page, in bytes.
const PAGE: usize = 4096;

/// An arena.
#[derive(Debug)]
pub(crate) struct Arena {
    regions: Vec<Region>,
    /// The size of the next region, in bytes.
    next_region: usize,
    /// Free chunks: size, region, offset. Later regions have lower addresses, and come first.
    free: BTreeSet<(usize, Reverse<usize>, usize)>,
}

/// One region.
#[derive(Debug)]
struct Region {
    /// Size and use of each chunk, by its offset.
    chunks: BTreeMap<usize, (usize, bool)>,
    /// A bit for each page that a chunk has covered.
    pages: Vec<u64>,
}

/// A chunk in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    region: usize,
    offset: usize,
}

impl Default for Arena {
    fn default() -> Self {
        Self { regions: Vec::new(), next_region: FIRST_REGION, free: BTreeSet::new() }
    }
}

impl Arena {
    /// Bytes in pages that a chunk has covered.
    pub(crate) fn touched(&self) -> usize {
        let pages = self.regions.iter().flat_map(|region| &region.pages);
        PAGE * pages.map(|word| word.count_ones() as usize).sum::<usize>()
    }

    /// Takes a chunk; `None` for no bytes.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Option<Chunk> {
        if bytes == 0 {
            return None;
        }
        let size = bytes.div_ceil(UNIT) * UNIT;
        let found = self.free.range((size, Reverse(usize::MAX), 0)..).next().copied();
        let (free, Reverse(region), offset) = found.unwrap_or_else(|| self.extend(size));
        self.free.remove(&(free, Reverse(region), offset));
        let is_split = free >= 2 * size || free - size >= UNUSED_MAX;
        let taken = if is_split { size } else { free };
        let space = &mut self.regions[region];
        space.chunks.insert(offset, (taken, true));
        if is_split {
            space.chunks.insert(offset + taken, (free - taken, false));
            self.free.insert((free - taken, Reverse(region), offset + taken));
        }
        // Only what was asked for is written.
        space.touch(offset, bytes);
        Some(Chunk { region, offset })
    }

    /// Returns a chunk.
    pub(crate) fn free(&mut self, chunk: Chunk) {
        let Chunk { region, offset } = chunk;
        let chunks = &mut self.regions[region].chunks;
        let Some((size, true)) = chunks.remove(&offset) else { return };
        let (mut start, mut length) = (offset, size);
        if let Some(&(next, false)) = chunks.get(&(offset + size)) {
            chunks.remove(&(offset + size));
            self.free.remove(&(next, Reverse(region), offset + size));
            length += next;
        }
        if let Some((&before, &(size, false))) = chunks.range(..offset).next_back() {
            chunks.remove(&before);
            self.free.remove(&(size, Reverse(region), before));
            (start, length) = (before, length + size);
        }
        chunks.insert(start, (length, false));
        self.free.insert((length, Reverse(region), start));
    }

    /// Adds a region with one free chunk of at least this size.
    fn extend(&mut self, size: usize) -> (usize, Reverse<usize>, usize) {
        let mut grown = false;
        while self.next_region < size {
            self.next_region *= 2;
            grown = true;
        }
        let length = self.next_region;
        if !grown && self.next_region < LAST_REGION {
            self.next_region *= 2;
        }
        let pages = vec![0; length.div_ceil(PAGE * 64)];
        self.regions.push(Region { chunks: BTreeMap::from([(0, (length, false))]), pages });
        let chunk = (length, Reverse(self.regions.len() - 1), 0);
        self.free.insert(chunk);
        chunk
    }
}

impl Region {
    fn touch(&mut self, offset: usize, bytes: usize) {
        let (first, last) = (offset / PAGE, (offset + bytes - 1) / PAGE);
        for word in first / 64..=last / 64 {
            let low = if word == first / 64 { u64::MAX << (first % 64) } else { u64::MAX };
            let high = if word == last / 64 { u64::MAX >> (63 - last % 64) } else { u64::MAX };
            if let Some(pages) = self.pages.get_mut(word) {
                *pages |= low & high;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn taken(arena: &mut Arena, bytes: usize) -> Chunk {
        arena.allocate(bytes).expect("a chunk")
    }

    #[test]
    fn only_covered_pages_of_a_region_are_in_memory() {
        let mut arena = Arena::default();
        let first = taken(&mut arena, 100 * MIB);
        assert_eq!(arena.touched(), 100 * MIB);
        arena.free(first);
        taken(&mut arena, 60 * MIB);
        assert_eq!(arena.touched(), 100 * MIB, "the region of 128 MiB is used again");
    }

    #[test]
    fn the_smallest_free_chunk_that_fits_is_taken() {
        let mut arena = Arena::default();
        let chunks = [8, 1, 4, 1, 6, 1].map(|size| taken(&mut arena, size * MIB));
        [0, 2, 4].into_iter().for_each(|index| arena.free(chunks[index]));
        // The chunk of 4 MiB took the remaining 7 of its region, which were too few to be split.
        assert_eq!(taken(&mut arena, 3 * MIB), chunks[4]);
        assert_eq!(taken(&mut arena, 5 * MIB), chunks[2]);
    }

    #[test]
    fn free_neighbours_merge() {
        let mut arena = Arena::default();
        let chunks = [3; 5].map(|size| taken(&mut arena, size * MIB));
        let before = arena.touched();
        // The first chunks are in regions of their own; the last ones share one.
        [3, 4, 2].into_iter().for_each(|index| arena.free(chunks[index]));
        let merged = taken(&mut arena, 6 * MIB);
        assert!(chunks[2..].contains(&merged));
        assert_eq!(arena.touched(), before);
    }

    #[test]
    fn large_chunks_are_not_split_for_small_remainders() {
        let mut arena = Arena::default();
        let whole = taken(&mut arena, 64 * MIB);
        arena.free(whole);
        taken(&mut arena, 40 * MIB);
        taken(&mut arena, 10 * MIB);
        assert_eq!(arena.touched(), 74 * MIB, "24 of the 64 MiB are no chunk of their own");
    }

    #[test]
    fn nothing_is_taken_for_no_bytes() {
        assert_eq!(Arena::default().allocate(0), None);
    }
}
