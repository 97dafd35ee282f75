//! Why a sidecar cannot be had.

use std::fmt;

use oz_worker_contract::reference::ReferenceError;

use super::error::EngineError;
use super::images::ImageError;

#[derive(Debug)]
pub enum SidecarError {
    NoImage,
    Name(ReferenceError),
    Image(ImageError),
    Engine(EngineError),
    /// Every name that the volume could have is another's.
    NoName(String),
    /// Somebody else is filling it, and does not come to an end.
    OthersFill(String),
    /// It was removed again and again.
    Removed,
    /// The worker leaves, and fills nothing any more.
    Leaving,
}

impl fmt::Display for SidecarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoImage => f.write_str("it has no image"),
            Self::Name(error) => error.fmt(f),
            Self::Image(error) => error.fmt(f),
            Self::Engine(error) => error.fmt(f),
            Self::NoName(volume) => write!(f, "volume {volume} and all that could stand in for it are in use"),
            Self::OthersFill(volume) => write!(f, "another worker has been filling volume {volume} for half an hour"),
            Self::Removed => f.write_str("its volume was removed again and again while it was filled"),
            Self::Leaving => f.write_str("the worker leaves"),
        }
    }
}

impl From<ImageError> for SidecarError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<EngineError> for SidecarError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}
