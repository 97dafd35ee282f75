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
