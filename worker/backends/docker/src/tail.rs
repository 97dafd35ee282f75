//! The last of what a container wrote, out of the frames in which an engine gives it.

use oz_worker_contract::last_output::Last;
pub use oz_worker_contract::last_output::MOST;

/// A frame's head: which stream, three zeros, the length (Docker Engine API, `ContainerAttach`).
const HEAD: usize = 8;

/// Takes frames in any pieces and keeps the end of what is in them.
#[derive(Debug, Default)]
pub struct Tail {
    last: Last,
    head: Vec<u8>,
    /// How much of the present frame is still to come.
    left: usize,
}

impl Tail {
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
                self.head.extend_from_slice(head);
                bytes = rest;
                if let [_, _, _, _, a, b, c, d] = *self.head.as_slice() {
                    self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                    self.head.clear();
                }
                continue;
            }
            let (content, rest) = bytes.split_at(bytes.len().min(self.left));
            self.left -= content.len();
            bytes = rest;
            self.last.take(content);
        }
    }

    /// What is kept. Where something was thrown away it begins with the first whole line.
    pub fn finish(self) -> Vec<u8> {
        self.last.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap_or_default();
        [&[1, 0, 0, 0][..], &length.to_be_bytes(), text].concat()
    }

    #[test]
    fn frames_are_put_together_however_they_come() {
        let bytes = [frame(b"one\n"), frame(b""), frame(b"two"), frame(b"\n")].concat();
        for piece in 1..=bytes.len() {
            let mut tail = Tail::default();
            bytes.chunks(piece).for_each(|piece| tail.take(piece));
            assert_eq!(tail.finish(), b"one\ntwo\n", "{piece}");
        }
    }

    #[test]
    fn only_the_end_is_kept_and_it_begins_with_a_line() {
        let mut tail = Tail::default();
        tail.take(&frame(&[vec![b'x'; MOST], b"\nlast\n".to_vec()].concat()));
        assert_eq!(tail.finish(), b"last\n");
        let mut tail = Tail::default();
        for _ in 0..40 {
            tail.take(&frame(&vec![b'y'; MOST / 16]));
        }
        assert_eq!(tail.finish().len(), MOST);
    }

    #[test]
    fn a_frame_of_any_length_takes_no_memory() {
        let mut tail = Tail::default();
        tail.take(&[1, 0, 0, 0, 255, 255, 255, 255, b'a']);
        assert_eq!(tail.finish(), b"a");
    }
}
