//! One question that is asked of every row, and the answers that are known: one for each combination of
//! values of the columns that decide it.

use std::collections::HashMap;

use super::bits::{Bits, WORD};
use super::core::{Ask, Core};
use super::shape::{ASK, Answer, FAILED, UNKNOWN, YES};
use super::table::Segment;

/// Combinations of two or more columns that are kept in a plain table.
const FLAT_MAX: usize = 1 << 18;

/// What finds a known answer comes first and is small: a change is judged by very many policies, and what
/// that costs is the memory they touch.
#[derive(Debug)]
pub struct Test {
    known: Known,
    question: Box<Question>,
}

/// What is needed when an answer is not known.
#[derive(Debug)]
struct Question {
    ask: Ask,
    columns: Vec<usize>,
    /// Combinations that were asked about.
    asked: usize,
    /// Whether an answer may be another one than yes and no.
    odd: bool,
}

#[derive(Debug)]
enum Known {
    /// By the code of the one column.
    One {
        column: usize,
        answers: Vec<Answer>,
    },
    Many(Box<Many>),
}

#[derive(Debug)]
enum Many {
    /// By the codes of all columns: the first counts most.
    Flat {
        bounds: Vec<usize>,
        answers: Vec<Answer>,
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
            known: Known::nothing(&columns),
            question: Box::new(Question {
                ask,
                columns,
                asked: 0,
                odd: false,
            }),
        }
    }

    /// Whether no column decides, so that the answer is the same for all rows.
    pub fn is_constant(&self) -> bool {
        self.question.columns.is_empty()
    }

    pub fn forget(&mut self) {
        self.known = Known::nothing(&self.question.columns);
        self.question.asked = 0;
        self.question.odd = false;
    }

    /// The answer for all rows.
    pub fn constant(&self, core: &Core, segment: &Segment) -> Answer {
        core.answer(self.question.ask, segment, &[], &[])
    }

    /// The answer for one row.
    pub fn row(&mut self, core: &Core, segment: &Segment, row: usize) -> Answer {
        let known = match &self.known {
            Known::One { column, answers } => {
                let code = segment.columns[*column].codes()[row] as usize;
                answers.get(code).copied().unwrap_or(UNKNOWN)
            }
            Known::Many(many) => many.row(&self.question.columns, segment, row),
        };
        if known != UNKNOWN {
            return known;
        }
        self.prepare(segment);
        let codes = self.codes(segment, row);
        self.of_codes(core, segment, codes)
    }

    fn codes(&self, segment: &Segment, row: usize) -> Vec<u32> {
        let columns = self.question.columns.iter();
        columns
            .map(|column| segment.columns[*column].codes()[row])
            .collect()
    }

    /// Makes room for values that are new since the last time.
    fn prepare(&mut self, segment: &Segment) {
        match &mut self.known {
            Known::One { column, answers } => {
                let bound = segment.columns[*column].bound();
                answers.resize(bound.max(answers.len()), UNKNOWN);
            }
            Known::Many(many) => {
                let columns = self.question.columns.iter();
                let wanted: Vec<usize> = columns
                    .map(|column| segment.columns[*column].bound())
                    .collect();
                many.prepare(&wanted);
            }
        }
    }

    fn of_codes(&mut self, core: &Core, segment: &Segment, codes: Vec<u32>) -> Answer {
        let known = self.known.get(&codes);
        if known != UNKNOWN {
            return known;
        }
        let question = &mut self.question;
        let answer = core.answer(question.ask, segment, &question.columns, &codes);
        question.odd |= answer > YES;
        question.asked += 1;
        self.known.put(codes, answer);
        answer
    }

    /// The answers for many rows.
    pub fn rows(&mut self, core: &Core, segment: &Segment, mask: &Bits) -> Rows {
        self.prepare(segment);
        match self.question.columns.as_slice() {
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
        let Known::One { answers, .. } = &self.known else {
            return;
        };
        let bound = answers.len();
        if self.question.asked >= bound {
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
            if self.known.get(&[code]) == UNKNOWN {
                self.of_codes(core, segment, vec![code]);
            }
        }
    }

    fn read_one(&self, codes: &[u32], mask: &Bits) -> Rows {
        let Known::One { answers, .. } = &self.known else {
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
        let odd = self.question.odd;
        Rows {
            yes: read(YES),
            failed: odd.then(|| read(FAILED)),
            ask: odd.then(|| read(ASK)),
        }
    }

    fn read_many(&mut self, core: &Core, segment: &Segment, mask: &Bits) -> Rows {
        let mut found = Rows::all(super::shape::NO, mask);
        for row in mask.rows() {
            match self.row(core, segment, row) {
                YES => found.yes.put(row, true),
                FAILED => put(&mut found.failed, mask, row),
                ASK => put(&mut found.ask, mask, row),
                _ => {}
            }
        }
        found
    }
}

impl Known {
    fn nothing(columns: &[usize]) -> Known {
        match columns {
            [column] => Known::One {
                column: *column,
                answers: Vec::new(),
            },
            _ => Known::Many(Box::new(Many::Sparse(HashMap::new()))),
        }
    }

    fn get(&self, codes: &[u32]) -> Answer {
        match (self, codes) {
            (Known::One { answers, .. }, [code]) => {
                answers.get(*code as usize).copied().unwrap_or(UNKNOWN)
            }
            (Known::One { .. }, _) => UNKNOWN,
            (Known::Many(many), codes) => many.get(codes),
        }
    }

    /// Keeps an answer; there is room for it.
    fn put(&mut self, codes: Vec<u32>, answer: Answer) {
        let slot = match self {
            Known::One { answers, .. } => {
                let code = codes.first().copied();
                code.and_then(|code| answers.get_mut(code as usize))
            }
            Known::Many(many) => match &mut **many {
                Many::Flat { bounds, answers } => {
                    place(bounds, codes.into_iter()).and_then(|place| answers.get_mut(place))
                }
                Many::Sparse(known) => {
                    known.insert(codes, answer);
                    None
                }
            },
        };
        if let Some(slot) = slot {
            *slot = answer;
        }
    }
}

impl Many {
    fn get(&self, codes: &[u32]) -> Answer {
        let answer = match self {
            Many::Flat { bounds, answers } => {
                place(bounds, codes.iter().copied()).and_then(|place| answers.get(place).copied())
            }
            Many::Sparse(known) => known.get(codes).copied(),
        };
        answer.unwrap_or(UNKNOWN)
    }

    /// The answer for a row, where that is found without putting its codes together.
    fn row(&self, columns: &[usize], segment: &Segment, row: usize) -> Answer {
        let Many::Flat { bounds, answers } = self else {
            return UNKNOWN;
        };
        let codes = columns
            .iter()
            .map(|column| segment.columns[*column].codes()[row]);
        let place = place(bounds, codes);
        place
            .and_then(|place| answers.get(place).copied())
            .unwrap_or(UNKNOWN)
    }

    /// Makes room for codes below these bounds.
    fn prepare(&mut self, wanted: &[usize]) {
        if let Many::Flat { bounds, .. } = self
            && bounds.iter().zip(wanted).all(|(have, want)| have >= want)
        {
            return;
        }
        // Some room to grow, so that a new value does not throw away what is known.
        let roomy: Vec<usize> = wanted.iter().map(|bound| bound + bound / 2 + 2).collect();
        let size = roomy
            .iter()
            .try_fold(1usize, |size, bound| size.checked_mul(*bound));
        match (size.filter(|size| *size <= FLAT_MAX), &self) {
            (Some(size), _) => {
                *self = Many::Flat {
                    bounds: roomy,
                    answers: vec![UNKNOWN; size],
                };
            }
            (None, Many::Flat { .. }) => *self = Many::Sparse(HashMap::new()),
            (None, Many::Sparse(_)) => {}
        }
    }
}

fn put(into: &mut Option<Bits>, mask: &Bits, row: usize) {
    into.get_or_insert_with(|| Bits::none(mask.len()))
        .put(row, true);
}

/// Where the answer for a combination of codes stands; nothing if there is no room for one of them.
fn place(bounds: &[usize], codes: impl Iterator<Item = u32>) -> Option<usize> {
    bounds
        .iter()
        .zip(codes)
        .try_fold(0, |place, (bound, code)| {
            let code = code as usize;
            (code < *bound).then_some(place * bound + code)
        })
}
