"""Why a recipe would not run or not do what it says: looked at before anything is loaded, computed or written."""
