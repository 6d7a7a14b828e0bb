#pragma once

bool planted_defects_are_named();
