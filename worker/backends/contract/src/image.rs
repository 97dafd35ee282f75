//! The names of images, as far as every backend that has some checks them.

/// Why a text cannot name an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an image's name cannot hold white space")]
pub struct ImageError;

/// Checks the name of an image for what is never right; the registry judges the rest.
///
/// # Errors
/// When there is white space inside.
pub fn check_image(name: &str) -> Result<(), ImageError> {
    if name.contains(char::is_whitespace) { Err(ImageError) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_in_no_images_name() {
        assert_eq!(check_image("h.example/x:1"), Ok(()));
        for name in ["a b", " a", "a\n", "a\u{a0}b"] {
            assert_eq!(check_image(name), Err(ImageError), "{name:?}");
        }
    }
}
