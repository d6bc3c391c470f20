//! One question that is asked of every row, and the answers that are known: one for each combination of
//! values of the columns that decide it.

use std::collections::HashMap;

use super::bits::{Bits, WORD};
use super::core::{Ask, Core};
use super::shape::{ASK, Answer, FAILED, UNKNOWN, YES};
use super::table::Segment;

/// Combinations of two or more columns that are kept in a plain table.
const FLAT_MAX: usize = 1 << 18;

#[derive(Debug)]
pub struct Test {
    ask: Ask,
    columns: Vec<usize>,
    known: Known,
    /// Whether an answer may be another one than yes and no.
    odd: bool,
}

#[derive(Debug)]
enum Known {
    /// By the code of the one column, or by the codes of all: the first counts most.
    Flat {
        bounds: Vec<usize>,
        answers: Vec<Answer>,
        asked: usize,
    },
    Sparse(HashMap<Vec<u32>, Answer>),
}

/// Where a question is answered yes, where it fails, and where only the whole rule can tell.
#[derive(Debug, Clone)]
pub struct Rows {
    pub yes: Bits,
    pub failed: Option<Bits>,
    pub ask: Option<Bits>,
}

impl Rows {
    /// One answer for all of the rows.
    pub fn all(answer: Answer, mask: &Bits) -> Rows {
        let none = || Bits::none(mask.len());
        Rows {
            yes: if answer == YES { mask.clone() } else { none() },
            failed: (answer == FAILED).then(|| mask.clone()),
            ask: (answer == ASK).then(|| mask.clone()),
        }
    }

    /// Takes over what is odd from another answer.
    pub fn join_odd(&mut self, other: &Rows) {
        join(&mut self.failed, other.failed.as_ref());
        join(&mut self.ask, other.ask.as_ref());
    }

    /// Takes away from a set of rows those that have an odd answer.
    pub fn without_odd(&self, rows: &mut Bits) {
        for odd in [&self.failed, &self.ask].into_iter().flatten() {
            rows.take_away(odd);
        }
    }
}

fn join(into: &mut Option<Bits>, other: Option<&Bits>) {
    match (into, other) {
        (_, None) => {}
        (Some(bits), Some(other)) => bits.add(other),
        (empty, Some(other)) => *empty = Some(other.clone()),
    }
}

impl Test {
    pub fn new(ask: Ask, columns: Vec<usize>) -> Test {
        Test {
            ask,
            columns,
            known: Known::Sparse(HashMap::new()),
            odd: false,
        }
    }

    /// Whether no column decides, so that the answer is the same for all rows.
    pub fn is_constant(&self) -> bool {
        self.columns.is_empty()
    }

    pub fn forget(&mut self) {
        self.known = Known::Sparse(HashMap::new());
        self.odd = false;
    }

    /// The answer for all rows.
    pub fn constant(&self, core: &Core, segment: &Segment) -> Answer {
        core.answer(self.ask, segment, &[], &[])
    }

    /// The answer for one row.
    pub fn row(&mut self, core: &Core, segment: &Segment, row: usize) -> Answer {
        if let ([column], Known::Flat { answers, .. }) = (self.columns.as_slice(), &self.known) {
            let code = segment.columns[*column].codes()[row] as usize;
            if let Some(answer) = answers.get(code)
                && *answer != UNKNOWN
            {
                return *answer;
            }
        }
        self.prepare(segment);
        let codes = self.codes(segment, row);
        self.of_codes(core, segment, codes)
    }

    fn codes(&self, segment: &Segment, row: usize) -> Vec<u32> {
        let columns = self.columns.iter();
        columns
            .map(|column| segment.columns[*column].codes()[row])
            .collect()
    }

    /// Makes room for values that are new since the last time.
    fn prepare(&mut self, segment: &Segment) {
        let wanted: Vec<usize> = self
            .columns
            .iter()
            .map(|column| segment.columns[*column].bound())
            .collect();
        let one = wanted.len() == 1;
        let flat = |bounds: &[usize]| {
            let size = bounds
                .iter()
                .try_fold(1usize, |size, bound| size.checked_mul(*bound));
            size.filter(|size| one || *size <= FLAT_MAX)
        };
        if let Known::Flat {
            bounds, answers, ..
        } = &mut self.known
        {
            if one {
                answers.resize(wanted[0].max(answers.len()), UNKNOWN);
                bounds.clone_from(&wanted);
                return;
            }
            if bounds.iter().zip(&wanted).all(|(have, want)| have >= want) {
                return;
            }
        }
        // Some room to grow, so that a new value does not throw away what is known.
        let roomy: Vec<usize> = match one {
            true => wanted,
            false => wanted.iter().map(|bound| bound + bound / 2 + 2).collect(),
        };
        match flat(&roomy) {
            Some(size) => {
                self.known = Known::Flat {
                    bounds: roomy,
                    answers: vec![UNKNOWN; size],
                    asked: 0,
                };
            }
            None if matches!(self.known, Known::Flat { .. }) => {
                self.known = Known::Sparse(HashMap::new());
            }
            None => {}
        }
    }

    fn of_codes(&mut self, core: &Core, segment: &Segment, codes: Vec<u32>) -> Answer {
        let place = match &self.known {
            Known::Flat {
                bounds, answers, ..
            } => {
                let place = place(bounds, &codes);
                if answers[place] != UNKNOWN {
                    return answers[place];
                }
                place
            }
            Known::Sparse(known) => {
                if let Some(answer) = known.get(codes.as_slice()) {
                    return *answer;
                }
                0
            }
        };
        let answer = core.answer(self.ask, segment, &self.columns, &codes);
        self.odd |= answer > YES;
        match &mut self.known {
            Known::Flat { answers, asked, .. } => {
                answers[place] = answer;
                *asked += 1;
            }
            Known::Sparse(known) => drop(known.insert(codes, answer)),
        }
        answer
    }

    /// The answers for many rows.
    pub fn rows(&mut self, core: &Core, segment: &Segment, mask: &Bits) -> Rows {
        self.prepare(segment);
        match self.columns.as_slice() {
            [column] => {
                let codes = segment.columns[*column].codes();
                self.learn(core, segment, codes, mask);
                self.read_one(codes, mask)
            }
            _ => self.read_many(core, segment, mask),
        }
    }

    /// Answers for the values that these rows have, as far as they are not known.
    fn learn(&mut self, core: &Core, segment: &Segment, codes: &[u32], mask: &Bits) {
        let Known::Flat { answers, asked, .. } = &self.known else {
            return;
        };
        let bound = answers.len();
        if *asked >= bound {
            return;
        }
        // Few values are all asked; of many, those that the rows have.
        if bound <= mask.count() {
            for code in 0..bound {
                let code = u32::try_from(code).unwrap_or(u32::MAX);
                self.of_codes(core, segment, vec![code]);
            }
            return;
        }
        for row in mask.rows() {
            let code = codes[row];
            let Known::Flat { answers, .. } = &self.known else {
                return;
            };
            if answers[code as usize] == UNKNOWN {
                self.of_codes(core, segment, vec![code]);
            }
        }
    }

    fn read_one(&self, codes: &[u32], mask: &Bits) -> Rows {
        let Known::Flat { answers, .. } = &self.known else {
            return Rows::all(FAILED, mask);
        };
        let answer = |code: &u32| answers.get(*code as usize).copied().unwrap_or(UNKNOWN);
        let read = |wanted: Answer| {
            let mut found = Bits::none(mask.len());
            for (word, rows) in mask
                .words()
                .iter()
                .enumerate()
                .filter(|(_, rows)| **rows != 0)
            {
                let start = word * WORD;
                let end = (start + WORD).min(codes.len());
                let mut bits = 0;
                for (bit, code) in codes[start..end].iter().enumerate() {
                    bits |= u64::from(answer(code) == wanted) << bit;
                }
                *found.word_mut(word) = bits & rows;
            }
            found
        };
        Rows {
            yes: read(YES),
            failed: self.odd.then(|| read(FAILED)),
            ask: self.odd.then(|| read(ASK)),
        }
    }

    fn read_many(&mut self, core: &Core, segment: &Segment, mask: &Bits) -> Rows {
        let mut found = Rows::all(super::shape::NO, mask);
        for row in mask.rows() {
            let answer = match &self.known {
                Known::Flat {
                    bounds, answers, ..
                } => {
                    let codes = self.columns.iter().zip(bounds);
                    let place = codes.fold(0, |place, (column, bound)| {
                        place * bound + segment.columns[*column].codes()[row] as usize
                    });
                    answers[place]
                }
                Known::Sparse(_) => UNKNOWN,
            };
            let answer = match answer {
                UNKNOWN => {
                    let codes = self.codes(segment, row);
                    self.of_codes(core, segment, codes)
                }
                known => known,
            };
            match answer {
                YES => found.yes.put(row, true),
                FAILED => put(&mut found.failed, mask, row),
                ASK => put(&mut found.ask, mask, row),
                _ => {}
            }
        }
        found
    }
}

fn put(into: &mut Option<Bits>, mask: &Bits, row: usize) {
    into.get_or_insert_with(|| Bits::none(mask.len()))
        .put(row, true);
}

fn place(bounds: &[usize], codes: &[u32]) -> usize {
    let pairs = bounds.iter().zip(codes);
    pairs.fold(0, |place, (bound, code)| place * bound + *code as usize)
}
