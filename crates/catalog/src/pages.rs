//! Lists that are longer than a page. Whoever looks at everything takes it page by page and holds no more of it than it
//! keeps; whoever needs few resources, or those of one place, takes all.

use access::Permit;
use wire::ResourceType;

use crate::error::{CatalogError, Result};
use crate::resource::{Catalog, Continuation, Members, PAGE_MAX, PageRequest, Resource};

/// A hundred million resources: each page ends behind the one before it, so this only stops a catalog that is broken.
const PAGES_MAX: usize = 100_000;

/// All resources of a kind at or below a permit's scope, in the order of their ids.
pub struct Pages<'a> {
    catalog: &'a dyn Catalog,
    permit: &'a Permit,
    kind: ResourceType,
    size: usize,
    directly: bool,
    next: Option<PageRequest>,
    left: usize,
}

impl<'a> Pages<'a> {
    pub fn of(catalog: &'a dyn Catalog, permit: &'a Permit, kind: &str) -> Pages<'a> {
        Pages {
            catalog,
            permit,
            kind: ResourceType::new(kind),
            size: PAGE_MAX,
            directly: false,
            next: Some(PageRequest::largest()),
            left: PAGES_MAX,
        }
    }

    /// Pages of so many resources instead of the largest that there are.
    pub fn by(mut self, size: usize) -> Pages<'a> {
        self.size = size;
        self.next = Some(self.first());
        self
    }

    /// Of an extension type: only what sits on the permit's scope itself.
    pub fn directly(mut self) -> Pages<'a> {
        self.directly = true;
        self.next = Some(self.first());
        self
    }

    fn first(&self) -> PageRequest {
        let page = PageRequest::first(self.size);
        match self.directly {
            true => page.directly(),
            false => page,
        }
    }

    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// Those of [`Catalog::list`]. What was not seen must not be taken for what is not there.
    pub async fn next(&mut self) -> Result<Option<Vec<Resource>>> {
        let Some(page) = self.take()? else {
            return Ok(None);
        };
        let answer = self.catalog.list(self.permit, &self.kind, page).await?;
        self.go_on(answer.next);
        Ok(Some(answer.resources))
    }

    fn take(&mut self) -> Result<Option<PageRequest>> {
        let Some(page) = self.next.take() else {
            return Ok(None);
        };
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| CatalogError::Corrupt {
                operation: "list all resources of a kind",
                what: format!("more than {PAGES_MAX} pages"),
            })?;
        Ok(Some(page))
    }

    fn go_on(&mut self, next: Option<Continuation>) {
        self.next = next.map(|token| self.first().after(token));
    }

    /// All of them.
    ///
    /// # Errors
    /// As [`Pages::next`].
    pub async fn all(mut self) -> Result<Vec<Resource>> {
        let mut found = Vec::new();
        while let Some(resources) = self.next().await? {
            found.extend(resources);
        }
        Ok(found)
    }

    /// Of all of them the members at these places, as [`Catalog::list_members`] gives them.
    ///
    /// # Errors
    /// As [`Pages::next`].
    pub async fn members(mut self, members: &[&str]) -> Result<Vec<Members>> {
        let mut found = Vec::new();
        while let Some(page) = self.take()? {
            let listed = self
                .catalog
                .list_members(self.permit, &self.kind, members, page);
            let answer = listed.await?;
            self.go_on(answer.next);
            found.extend(answer.found);
        }
        Ok(found)
    }
}
