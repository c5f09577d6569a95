//! Numbers and texts in the messages that workers send each other. What comes from elsewhere is checked before anything is taken.

use super::WorkersError;

/// A message that is put together.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn number(&mut self, number: usize) {
        self.0.extend_from_slice(&(number as u64).to_le_bytes());
    }

    pub(crate) fn double(&mut self, number: f64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn floats(&mut self, numbers: &[f32]) {
        self.number(numbers.len());
        numbers.iter().for_each(|number| self.0.extend_from_slice(&number.to_le_bytes()));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A message that is read, from its beginning on.
#[derive(Debug)]
pub(crate) struct Reader<'m> {
    from: usize,
    rest: &'m [u8],
}

impl<'m> Reader<'m> {
    /// A message of worker `from`.
    pub(crate) fn new(from: usize, message: &'m [u8]) -> Self {
        Self { from, rest: message }
    }

    /// What says that the message is none that this program sends.
    pub(crate) fn fault(&self) -> WorkersError {
        WorkersError::Message { from: self.from }
    }

    fn take(&mut self, bytes: usize) -> Result<&'m [u8], WorkersError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or_else(|| self.fault())?;
        self.rest = rest;
        Ok(taken)
    }

    fn eight(&mut self) -> Result<[u8; 8], WorkersError> {
        let taken = self.take(8)?;
        taken.try_into().map_err(|_| self.fault())
    }

    pub(crate) fn number(&mut self) -> Result<usize, WorkersError> {
        usize::try_from(u64::from_le_bytes(self.eight()?)).map_err(|_| self.fault())
    }

    pub(crate) fn double(&mut self) -> Result<f64, WorkersError> {
        Ok(f64::from_le_bytes(self.eight()?))
    }

    pub(crate) fn floats(&mut self) -> Result<Vec<f32>, WorkersError> {
        let count = self.number()?;
        let taken = self.take(count.checked_mul(4).ok_or_else(|| self.fault())?)?;
        let (numbers, _) = taken.as_chunks::<4>();
        Ok(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
    }

    pub(crate) fn bytes(&mut self) -> Result<&'m [u8], WorkersError> {
        let count = self.number()?;
        self.take(count)
    }

    pub(crate) fn text(&mut self) -> Result<String, WorkersError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| self.fault())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
