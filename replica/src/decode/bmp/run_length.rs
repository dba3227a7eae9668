//! Decodes the runs of compressed BMP files to indices, with the same indices as Pillow.
//!
//! Source: the documentation of `BI_RLE8` and `BI_RLE4`, and Pillow's `BmpRleDecoder` for runs beyond the end of a row.

/// The indices `[height, width]`, in the order of the file. `None` if the data ends before the last row.
pub(super) fn indices(data: &[u8], four_bits: bool, width: usize, height: usize) -> Option<Vec<u8>> {
    let size = width * height;
    let mut indices = Vec::new();
    indices.reserve_exact(size);
    let (mut x, mut at) = (0, 0);
    while indices.len() < size {
        let &[count, value] = data.get(at..)?.first_chunk()?;
        at += 2;
        let left = size - indices.len();
        match (count, value) {
            // The rest of the row is zeros.
            (0, 0) => {
                indices.resize(indices.len().next_multiple_of(width), 0);
                x = 0;
            }
            // The end of the image.
            (0, 1) => return None,
            // The next pixel is further right and up. Those between are zeros.
            (0, 2) => {
                let &[right, up] = data.get(at..)?.first_chunk()?;
                at += 2;
                let skipped = usize::from(right) + usize::from(up) * width;
                indices.resize(indices.len() + skipped.min(left), 0);
                x = indices.len() % width;
            }
            // Indices without a run. They fill whole words of two bytes.
            (0, count) => {
                let count = usize::from(count).min(left);
                let bytes = if four_bits { count.div_ceil(2) } else { count };
                let stored = data.get(at..at + bytes)?;
                match four_bits {
                    true => indices.extend(stored.iter().flat_map(|byte| [byte >> 4, byte & 15]).take(count)),
                    false => indices.extend_from_slice(stored),
                }
                x += usize::from(value);
                at = (at + bytes).next_multiple_of(2);
            }
            // A run. It ends with the row.
            (count, value) => {
                let count = usize::from(count).min(width.saturating_sub(x)).min(left);
                let pair = if four_bits { [value >> 4, value & 15] } else { [value; 2] };
                indices.extend(pair.into_iter().cycle().take(count));
                x += count;
            }
        }
    }
    Some(indices)
}
