//! Memory for data on its way in, used again: fresh memory for every large write would cost more in page faults than the
//! copy into it.

use parking_lot::Mutex;
use std::ops::Deref;
use std::sync::Arc;

/// Most buffers kept for the next writes.
const MAX_SPARE: usize = 8;

/// Writes below this many bytes are left to the allocator.
const MIN_KEPT: usize = 64 * 1024;

/// Buffers that wait for the next write. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Buffers {
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A copy of a request's data. Its memory goes back when it is dropped.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    home: Buffers,
}

impl Buffers {
    pub(super) fn copy(&self, data: &[u8]) -> Buffer {
        let spare = if data.len() < MIN_KEPT { None } else { self.spare.lock().pop() };
        let mut bytes = spare.unwrap_or_default();
        bytes.extend_from_slice(data);
        Buffer { bytes, home: self.clone() }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.capacity() < MIN_KEPT {
            return;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut spare = self.home.spare.lock();
        if spare.len() < MAX_SPARE {
            spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_used_again_and_only_some_are_kept() {
        let buffers = Buffers::default();
        let first = buffers.copy(&[1; MIN_KEPT]);
        let memory = first.as_ptr();
        drop(first);
        let second = buffers.copy(&[2; MIN_KEPT - 1]);
        assert_eq!(buffers.spare.lock().len(), 1, "a small one does not take a large one's place");
        drop(second);
        let third = buffers.copy(&[3; MIN_KEPT]);
        assert_eq!((third.as_ptr(), &third[..]), (memory, &[3; MIN_KEPT][..]));
        let many: Vec<_> = (0..2 * MAX_SPARE).map(|_| buffers.copy(&[4; MIN_KEPT])).collect();
        drop((many, third));
        assert_eq!(buffers.spare.lock().len(), MAX_SPARE);
    }
}
