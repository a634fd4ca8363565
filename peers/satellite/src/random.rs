//! Randomness of the operating system.

use strewn_engine::bucket::Error;

/// Fresh random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Fresh random numbers.
pub(crate) fn numbers(count: usize) -> Result<Vec<u64>, Error> {
    let mut bytes = vec![0; count * 8];
    getrandom::fill(&mut bytes).map_err(failed)?;
    let numbers = bytes.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
    Ok(numbers.collect())
}

fn failed(error: getrandom::Error) -> Error {
    Error::Internal(format!("no randomness: {error}"))
}
